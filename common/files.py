"""Files that are complete at every moment, and JSON files whose damage is reported.

Everything is written into a new file, which then replaces the old one: a folder that came from
somebody else may hold links, and nothing is written through them.
"""

import fcntl
import glob
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import FedShieldError, explain_os_errors
from common.parsing import parse_json


@contextmanager
def writing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a new file, which replaces ``path`` when the block has ended without an error.

    At every moment, also in a power cut, there is either the old file or the new one.

    Args:
        path: its folder is made where it is missing.
        mode: of the new file; the user's umask is applied.

    Raises:
        FedShieldError: it cannot be written; the old one stays.
    """
    with explain_os_errors(path):
        path.parent.mkdir(exist_ok=True)
        clear_leftovers(path.parent, path.name)
        partial, number = _begin(path, mode)
        try:
            with os.fdopen(number, "wb") as file:
                yield file
                file.flush()
                os.fsync(number)
                partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def replace_file(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a whole file, as ``writing`` does."""
    with writing(path, mode) as file:
        file.write(content)


def create_file(path: Path, content: bytes) -> None:
    """Write one of very many files, over an existing one; a kill or a power cut may leave half of it."""
    with explain_os_errors(path):
        path.unlink(missing_ok=True)
        with path.open("xb") as file:
            file.write(content)


def replace_json(path: Path, content: Any) -> None:
    """Write a JSON file, as ``replace_file`` does."""
    replace_file(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def _begin(path: Path, mode: int) -> tuple[Path, int]:
    """Create the file that will replace ``path``, and lock it: a lock ends with the process that holds it."""
    while True:
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
        number = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with suppress(OSError):  # where files cannot be locked, none is removed as left over either
            fcntl.flock(number, fcntl.LOCK_EX)
        if os.fstat(number).st_nlink:
            return partial, number
        os.close(number)  # removed as left over in the moment before it was locked


def clear_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes have left of files that they were writing; living ones hold theirs locked.

    Args:
        folder: where they lie.
        name: of the file that was to be written; every file if not given, in a folder that is FedShield's alone.
    """
    for partial in folder.glob(f"{name if name == '*' else glob.escape(name)}.*partial"):
        with suppress(OSError):  # still written, or removed by another process, or not ours
            _clear(partial)


def _clear(partial: Path) -> None:
    if partial.is_symlink():
        partial.unlink()
        return
    number = os.open(partial, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        partial.unlink()
    finally:
        os.close(number)


def _sync_folder(folder: Path) -> None:
    """Write a folder's new entry to the disk; not every file system and system can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Append one line to a JSON-lines file, and write it to the disk; several processes wait for each other."""
    line = (json.dumps(record, allow_nan=False) + "\n").encode()
    with explain_os_errors(path), _alone(path) as file:
        begun = _drop_half_a_line(file)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    if not begun:
        _sync_folder(path.parent)


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """Open a file to append to it, made where it is missing, while no other process does."""
    while True:
        with open_to_append(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            there = os.stat(path, follow_symlinks=False) if os.path.lexists(path) else None
            if there is None or not os.path.samestat(there, os.fstat(file.fileno())):
                continue  # replaced meanwhile
            if there.st_nlink == 1:
                yield file
                return
            unshare(path)


def open_to_append(path: Path) -> BinaryIO:
    """Open a file for reading and appending, made where it is missing, and not through a link."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o666), "ab+")


def unshare(path: Path) -> None:
    """Replace a hard link by a copy: the file under its other name may be anybody's."""
    if path.exists() and path.stat().st_nlink > 1:
        replace_file(path, path.read_bytes())


def _drop_half_a_line(file: BinaryIO) -> int:
    """Cut off a last line that was cut short: it would take the next one with it. Return the file's length then."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return size
    file.seek(0)
    return file.truncate(file.read().rfind(b"\n") + 1)


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FedShieldError: it is not there, or damaged; the message ends with ``hint``.
    """
    with explain_os_errors(path):
        if not path.is_file():
            raise FedShieldError(f"{path}: not found; {hint}")
        text = path.read_bytes()
    try:
        content = parse_json(text)
    except ValueError as error:
        raise FedShieldError(f"{path}: damaged ({error}); {hint}") from error
    if not isinstance(content, dict):
        raise FedShieldError(f"{path}: damaged (not a JSON object); {hint}")
    return content


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a JSON-lines file, none if it is not there; an incomplete last line is ignored."""
    with explain_os_errors(path):
        if not path.exists():
            return []
        lines = path.read_bytes().splitlines(keepends=True)
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line)
        except ValueError as error:
            cut_short = not line.endswith(b"\n") and isinstance(error.__cause__, json.JSONDecodeError)
            if cut_short and number == len(lines):
                break
            raise FedShieldError(f"{path}: line {number} is damaged ({error}); remove that line") from error
        if not isinstance(record, dict):
            raise FedShieldError(f"{path}: line {number} is damaged; remove that line")
        records.append(record)
    return records
