"""In a checkout, FedShield's folders are packages with everyday names, which a user's own module may have too."""

import sys
from importlib.util import find_spec
from pathlib import Path

_FOLDERS = ("client", "common", "server", "simulations")


def refuse_clashes() -> None:
    """Check that Python finds FedShield's own folders; there is nothing to check where it is installed as a package.

    Raises:
        ImportError: it finds another module first; the message names both.
    """
    here = Path(__file__).resolve().parent
    if (here / _FOLDERS[0]).is_dir():
        return
    for name in _FOLDERS:
        loaded = sys.modules.get(name)
        found = getattr(loaded, "__file__", None) if loaded else getattr(find_spec(name), "origin", None)
        own = here.parent / name
        if found is None or Path(found).resolve() != own / "__init__.py":
            raise ImportError(
                f"{found or name}: Python finds this as {name!r} instead of {own}; give yours another name, start from "
                "another folder, or install FedShield as a package"
            )
