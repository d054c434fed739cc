"""Where FedShield's own files and its cache are, and paths as a user writes them."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import FedShieldError

ROOT = Path(__file__).resolve().parents[1]  # a checkout or an app that Flower has sent, or the installed package
PACKAGE = (__package__ or "").rpartition(".")[0]  # "fedshield" where it is installed, with all of ROOT in it; or ""
IMPORTED_FROM = ROOT.parent if PACKAGE else ROOT  # the folder in which Python finds it


def whole_path(given: Path | str, hint: str = "write the whole path") -> Path:
    """Return an absolute path, in which ``~`` and ``~name`` are replaced by the home folder.

    Raises:
        FedShieldError: there is no such home folder, or no working directory to begin at.
    """
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError as error:
        raise FedShieldError(f"{given}: this system has no such home folder; {hint}") from error
    except OSError as error:
        raise FedShieldError(f"{given}: the working directory no longer exists; change to another one") from error


def defaults_file() -> Path:
    """Return ``pyproject.toml``, which has the defaults.

    It is next to the packages; in the package, where that is installed; or next to it, in an app of Flower's, which
    contains no file of this name but its own.

    Raises:
        FedShieldError: it is missing.
    """
    places = [ROOT / "common" / "pyproject.toml", ROOT / "pyproject.toml", IMPORTED_FROM / "pyproject.toml"]
    path = next((place for place in places if place.exists()), None)
    if path is None:
        raise FedShieldError(f"{places[1]}: the file with the defaults is missing; install fedshield again")
    return path


def cache_dir() -> Path:
    """Return the folder of the cache: ``$FEDSHIELD_CACHE``, or ``fedshield`` in the user's cache folder.

    Raises:
        FedShieldError: the user has no home folder, and the variable is not set.
    """
    place: Path | str | None = os.environ.get("FEDSHIELD_CACHE")
    if not place:
        from platformdirs import user_cache_path

        try:
            place = user_cache_path("fedshield", appauthor=False)
        except RuntimeError:  # no home folder, which whole_path says
            place = "~/.cache/fedshield"
    return whole_path(place, "set FEDSHIELD_CACHE to a folder of your own")


def python_path() -> str:
    """Return PYTHONPATH for a process that imports this very app."""
    return os.pathsep.join([str(IMPORTED_FROM), *filter(None, [os.environ.get("PYTHONPATH")])])


def to_install(extra: str = "") -> str:
    """Return the command that installs what is missing: all of FedShield's needs, or those of one of its extras."""
    if PACKAGE:
        return f"pip install 'fedshield[{extra}]'" if extra else "pip install fedshield"
    return f"uv sync --extra {extra}" if extra else "uv sync"


def sources_digest(*names: str) -> bytes:
    """Return a SHA-256 of source files, named from ``ROOT``: what they have made is made again when they change."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(source(ROOT / name))
    return digest.digest()


def source(path: Path) -> bytes:
    """Return a source file as it is in a checkout: an installed package imports its parts under other names."""
    code = path.read_bytes()
    return code.replace(f"from {PACKAGE}.".encode(), b"from ") if PACKAGE else code


@contextmanager
def some_home() -> Iterator[None]:
    """Set HOME while a library is imported that needs it, for a user without a home folder."""
    if os.path.expanduser("~") != "~":
        yield
        return
    os.environ["HOME"] = "/nonexistent"
    try:
        yield
    finally:
        del os.environ["HOME"]
