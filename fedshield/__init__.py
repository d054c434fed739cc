"""Federated adversarial training on Flower."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.exported import load_exported

try:
    __version__ = version("fedshield")
except PackageNotFoundError:  # its folder is on Python's path
    __version__ = "0"

__all__ = ["load_exported"]


def __getattr__(name: str) -> Any:
    if name == "load_exported":
        from common.exported import load_exported

        return load_exported
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
