"""The app that ``fedshield submit`` sends to a SuperLink: a checkout, or one made of the installed package."""

import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tomli_w

from common.config.flat import Flat
from common.errors import FedShieldError, explain_os_errors
from common.paths import PACKAGE, ROOT, defaults_file, whole_path
from common.user_code import is_user_code, read_user_code, user_file


@contextmanager
def app_folder(given: Path | None, settings: Flat) -> Iterator[Path]:
    """Yield the folder of an app, that of its ``pyproject.toml``; one that was made is removed at the end.

    Args:
        given: by the user; None for the code that runs now.
        settings: the run's whole configuration; the files of ``FILE.py:NAME`` in it go into an app that is made.

    Raises:
        FedShieldError: a file of the user's own is missing, or outside the working directory.
    """
    if given is not None or not PACKAGE:
        yield whole_path(given or ROOT)
        return
    with tempfile.TemporaryDirectory(prefix="fedshield-app-") as name:
        app = Path(name)
        shutil.copytree(ROOT, app / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        (app / "pyproject.toml").write_text(_description(), "utf-8")
        for key, value in settings.items():
            if isinstance(value, str) and is_user_code(value):
                _add(app, key, value)
        yield app


def _description() -> str:
    """Return the app's ``pyproject.toml``: what Flower reads of ours, with the names that our parts have here."""
    whole = tomllib.loads(defaults_file().read_text("utf-8"))
    project = {key: whole["project"][key] for key in ("name", "version", "description", "license", "dependencies")}
    app = whole["tool"]["flwr"]["app"]
    components = {name: f"{PACKAGE}.{place}" for name, place in app["components"].items()}
    pinned = {key: whole["tool"]["uv"][key] for key in ("override-dependencies", "constraint-dependencies")}
    return tomli_w.dumps(
        {"project": project, "tool": {"uv": pinned, "flwr": {"app": {**app, "components": components}}}}
    )


def _add(app: Path, key: str, reference: str) -> None:
    """Put a user's file into the app, at the path that the configuration has."""
    code, path = read_user_code(key, reference), Path(reference.rpartition(":")[0])
    place = app / path
    if not place.resolve().is_relative_to(app.resolve()):
        raise FedShieldError(
            f"{key} = {reference}: {user_file(reference)} cannot be sent to the clients; put the file into the folder "
            f"where you start, and write {key} = {path.name}:{reference.rpartition(':')[2]}"
        )
    with explain_os_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(code)
