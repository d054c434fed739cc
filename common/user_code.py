"""A user's own network, training method or attack: ``FILE.py:NAME`` in the configuration."""

import ast
import hashlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from common.errors import DeadEndError, FedShieldError, explain_os_errors
from common.paths import IMPORTED_FROM, PACKAGE, ROOT

_REFERENCE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")


def is_user_code(name: str) -> bool:
    """Return whether a name in the configuration refers to a user's file."""
    return _REFERENCE.fullmatch(name) is not None


def user_file(reference: str) -> Path:
    """Return the absolute path of ``FILE.py:NAME``'s file.

    A relative path is looked for in the working directory and then next to ``common``: an app that Flower has sent to
    a client brings its files there, and runs anywhere.
    """
    path = Path(os.path.expanduser(reference.rpartition(":")[0]))
    beside = IMPORTED_FROM / path
    # os.path raises nothing, even if a configuration from elsewhere has an impossible path.
    return path.absolute() if os.path.exists(path) or not os.path.exists(beside) else beside


def read_user_code(key: str, reference: str) -> bytes:
    """Return the content of ``FILE.py:NAME``'s file.

    Raises:
        FedShieldError: it cannot be read; the message names ``key``.
    """
    path = user_file(reference)
    with explain_os_errors(path):
        if not path.is_file():
            raise FedShieldError(f"{key} = {reference}: no file {path}; write FILE.py:NAME")
        return path.read_bytes()


def user_code_digest(reference: str) -> str:
    """Return what stays the same when ``FILE.py`` is moved, and changes with its content; other names as they are."""
    if not is_user_code(reference):
        return reference
    return (
        f"{hashlib.sha256(read_user_code('FILE.py:NAME', reference)).hexdigest()[:16]}:{reference.rpartition(':')[2]}"
    )


def load_user_code(key: str, reference: str) -> Callable[..., Any]:
    """Return what ``FILE.py:NAME`` names; the file is run once in a process, and again when it has changed.

    Args:
        key: of the configuration, for messages.
        reference: as the configuration has it.

    Raises:
        FedShieldError: there is no such file or name, or the file raises.
    """
    name = reference.rpartition(":")[2]
    code = read_user_code(key, reference)
    with explain_user_code(key, reference):
        _refuse_clashes(user_file(reference), code)
        module = _module(user_file(reference), code)
    function = getattr(module, name, None)
    if not callable(function):
        known = [word for word, value in vars(module).items() if callable(value) and word[0] != "_"]
        raise FedShieldError(
            f"{key} = {reference}: {user_file(reference)} has no function {name}; it has {', '.join(known) or 'none'}"
        )
    made: Callable[..., Any] = function
    return made


def _refuse_clashes(path: Path, code: bytes) -> None:
    """Check that a file, where it imports a folder of the checkout in which FedShield runs, does not mean its own.

    ``fedshield`` is never its own: users' files import what they need from there, and often a clone lies beside them.

    Raises:
        FedShieldError: it imports something of ``common``, say, that is not there, and ``common.py`` lies beside it.
    """
    if PACKAGE or path.parent == ROOT:
        return
    for name in sorted(_imported(path, code)):
        top, _, inside = name.partition(".")
        if top == "fedshield":
            continue
        beside, ours = _modules(path.with_name(top)), ROOT / top
        if beside and (ours / "__init__.py").exists() and not (inside and _modules(ours / inside.partition(".")[0])):
            raise FedShieldError(
                f"{path}: imports {name}, and {top} is {ours} here, not {beside[0]}; put all that yours needs into one "
                "file, or give the other a name of its own"
            )


def _imported(path: Path, code: bytes) -> Iterator[str]:
    """Yield the full name of all that a source imports, in functions too."""
    for node in ast.walk(ast.parse(code, str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _modules(place: Path) -> list[Path]:
    """Return the files and folders that Python may import as a module of this path."""
    return [path for path in (place, place.with_suffix(".py")) if path.exists()]


@lru_cache(maxsize=16)
def _module(path: Path, code: bytes) -> ModuleType:
    module = ModuleType(f"fedshield_own_{path.stem}_{hashlib.sha256(code).hexdigest()[:8]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(code, str(path), "exec"), module.__dict__)  # noqa: S102  # it is the user's own
    return module


@contextmanager
def explain_user_code(key: str, reference: str) -> Iterator[None]:
    """Turn what a user's file raises into one line that names the place in the file."""
    try:
        yield
    except FedShieldError:
        raise
    except (Exception, SystemExit) as error:  # a file that calls sys.exit() would end the command silently
        place = user_file(reference)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(place)]
        if isinstance(error, SyntaxError) and error.filename == str(place):
            lines.append(error.lineno)
        where = f"{place}, line {lines[-1]}" if lines else str(place)
        told = what_was_raised(error)
        if isinstance(error, ModuleNotFoundError) and PACKAGE and (ROOT / str(error.name) / "__init__.py").exists():
            told += f"; FedShield's own is {PACKAGE}.{error.name} where it is installed as a package"
        raise DeadEndError(f"{key} = {reference}: {where}: {told}") from error


def what_was_raised(error: BaseException) -> str:
    """Return what a user's code has raised, in one line: the exception's name and the first line of its message."""
    told = str(error).strip().split("\n")[0]
    if isinstance(error, SystemExit):
        told = f"sys.exit({told}) would end the whole run; raise an exception instead"
    return f"{type(error).__name__}: {told}"
