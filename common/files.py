"""Files that are whole at every moment, and JSON whose damage is named."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from common.errors import FedShieldError, explain_os_errors


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that it is the old one or the new one at every moment, also when the power fails.

    Raises:
        FedShieldError: it cannot be written; the old one stays.
    """
    partial = path.with_name(f"{path.name}.partial")
    with explain_os_errors(path):
        path.parent.mkdir(exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            _sync_folder(path.parent)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder last; not every file system and system can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def replace_json(path: Path, content: Any) -> None:
    """Write a JSON file, as ``replace_file`` does."""
    replace_file(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FedShieldError: it is not there, or damaged; the message ends with ``hint``.
    """
    if not path.is_file():
        raise FedShieldError(f"{path}: not there; {hint}")
    with explain_os_errors(path):
        text = path.read_bytes()
    try:
        content = json.loads(text)
    except ValueError as error:
        raise FedShieldError(f"{path}: damaged (not valid JSON); {hint}") from error
    if not isinstance(content, dict):
        raise FedShieldError(f"{path}: damaged (not a JSON object); {hint}")
    return content


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Append one line to a JSON-lines file."""
    with explain_os_errors(path):
        _drop_half_a_line(path)
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def _drop_half_a_line(path: Path) -> None:
    """Cut off a last line that was cut short: it would take the next one with it."""
    size = path.stat().st_size if path.exists() else 0
    if size == 0:
        return
    with path.open("rb+") as file:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a JSON-lines file, none if it is not there; a last line that was cut short is passed over."""
    if not path.exists():
        return []
    with explain_os_errors(path):
        lines = path.read_bytes().splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line.decode())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            # Ours are ASCII: one of other bytes was not cut short.
            if number == len(lines) and line.isascii():
                break
            raise FedShieldError(f"{path}: line {number} is damaged; remove that line") from error
        if not isinstance(record, dict):
            raise FedShieldError(f"{path}: line {number} is damaged; remove that line")
        records.append(record)
    return records
