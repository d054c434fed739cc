"""Which code this user has run on this machine: code that came with somebody else's run or model needs permission.

The user's state folder has a file for each, named by the SHA-256 of the code; it contains the code's path, for readers.
"""

import hashlib
import logging
import os
from pathlib import Path

from common.errors import FedShieldError, explain_os_errors

log = logging.getLogger("fedshield")


def is_trusted(code: bytes) -> bool:
    """Return whether the user has run this very code here."""
    place = _place(code)
    return place is not None and os.path.isfile(place)  # which raises nothing


def trust(code: bytes, file: Path) -> None:
    """Record code that the user runs; if that cannot be written, later commands will ask for ``--trust-code``.

    Args:
        code: content of the file.
        file: where it is.
    """
    place = _place(code)
    try:
        if place is None:
            raise OSError("there is no home folder")
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.write_text(f"{str(file)!a}\n")
    except OSError as error:
        log.warning("%s: cannot be recorded as your code (%s); commands will ask for --trust-code", file, error)


def require_trust(file: Path, folder: Path, trust_code: bool) -> None:
    """Check that code which is about to run may run.

    Args:
        file: of the code.
        folder: of the run or model with which it came, and in which it must lie, also when all links are followed.
        trust_code: the user allows it; the log names the file.

    Raises:
        FedShieldError: it has not run here and is not allowed; or it is outside ``folder``.
    """
    with explain_os_errors(file):
        if not file.resolve(strict=True).is_relative_to(folder.resolve()):
            raise FedShieldError(f"{file}: is a link to outside {folder}; replace it by the code itself")
        code = file.read_bytes()
    if is_trusted(code):
        return
    if not trust_code:
        raise FedShieldError(
            f"{file}: this code has not run here before, and would run now; read it, and give --trust-code to allow it "
            "(in Python: trust_code=True)"
        )
    log.warning("%s: this code runs now, because --trust-code was given", file)
    trust(code, file)


def _place(code: bytes) -> Path | None:
    """Return the file that records this code; None if the user has no folder, since any other could be a trap."""
    state = Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"))  # raises nothing
    place = state / "fedshield" / "code" / hashlib.sha256(code).hexdigest()
    return place if place.is_absolute() else None
