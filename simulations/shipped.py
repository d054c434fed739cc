"""Presets and studies that FedShield ships, named without their folder and ending."""

import glob
from pathlib import Path

from common.errors import FedShieldError, explain_os_errors
from common.paths import ROOT, whole_path
from common.words import near

PRESETS = ROOT / "simulations" / "presets"


SWEEPS = PRESETS.with_name("sweeps")


def find_file(file: Path, shipped: Path, advice: str) -> Path:
    """Return a file, or the shipped one of that name; a folder of that name is ignored.

    Args:
        file: as the user gives it.
        shipped: the folder of those that are named without ``.toml``.
        advice: what else to give, before the list of those.

    Raises:
        FedShieldError: there is neither.
    """
    path, known = whole_path(file), shipped / f"{file}.toml"
    with explain_os_errors(path):
        folder = path.is_dir()
        if path.exists() and not folder:
            return path
    if known.is_file():
        return known
    if not folder and str(file) in names_in(SWEEPS if shipped == PRESETS else PRESETS):
        other = ("a study", "fedshield sweep") if shipped == PRESETS else ("a preset", "fedshield run")
        raise FedShieldError(f"{file}: is {other[0]}; run it with: {other[1]} {file}")
    names, written = names_in(shipped), path.with_name(f"{path.name}.toml")
    if written.is_file():
        raise FedShieldError(f"{path}: no such file; did you mean {file}.toml?")
    what = "a folder, not a file" if folder else "no such file"
    raise FedShieldError(f"{path}: {what}; {advice}: {', '.join(names)}{near(str(file), names)}")


def names_in(folder: Path, incomplete: str = "") -> list[str]:
    """Return what is shipped in a folder under names that begin with these characters."""
    return sorted(path.stem for path in folder.glob(f"{glob.escape(incomplete)}*.toml"))
