"""Folders that may have come from somebody else: no link in them may lead out of them."""

import os
from pathlib import Path

from common.errors import RENAME, FedShieldError, explain_os_errors, is_text
from common.words import in_one_line


def refuse_links(folder: Path) -> None:
    """Check that no link in a folder leads out of it, before anything in it is read or written.

    Through a link, a file of the reader's could be overwritten, or shown in a report that is sent to others.

    Args:
        folder: may be a link itself; one that does not exist is accepted.

    Raises:
        FedShieldError: a link in it leads out of it, or something is neither file nor folder, or its path is no text.
    """
    if not folder.is_dir():
        return
    if not is_text(str(folder)):
        raise FedShieldError(f"{str(folder)!r}: this path is not UTF-8; {RENAME}")
    home = Path(os.path.realpath(folder))
    waiting = [str(folder)]
    with explain_os_errors(folder):
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        _check(entry, folder, home)


def _check(entry: "os.DirEntry[str]", folder: Path, home: Path) -> None:
    place = f"{folder}: {in_one_line(os.path.relpath(entry.path, folder))}"
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if not Path(target).is_relative_to(home):
            raise FedShieldError(
                f"{place} is a link to {in_one_line(target)}, which could be read or overwritten through it; remove "
                "the link, or replace it by its target"
            )
    elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):  # a run that goes on removes files
        raise FedShieldError(f"{place} is neither a file nor a folder; remove it")
