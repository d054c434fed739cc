"""Objects as bytes that never touch the classes they were made of, in whatever process they are loaded."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import cloudpickle
from torch import nn

from fedshield.sources import is_installed

_REDUCED = 6  # items of what cloudpickle gives for a class that is pickled whole; the second are its maker's arguments
_IDENTITY = 32  # hexadecimal digits of the identity in them


def pickled(value: Any) -> bytes:
    """Return a pickle of an object, with all of the script, the notebook and this folder that it uses.

    Raises:
        Exception: whatever the objects inside raise.
    """
    content = io.BytesIO()
    with _by_value(value):
        _Pickler(content).dump(value)
    return content.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """Leaves out the identity that cloudpickle gives a class.

    By it, loading in the process that wrote the pickle finds the class itself, and sets its methods and their globals
    back to what they were. Without it, loading makes a class of its own.
    """

    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if not isinstance(reduced, tuple) or not isinstance(obj, type) or len(reduced) != _REDUCED:
            return reduced
        make, (*arguments, identity, extra), *rest = reduced
        if not isinstance(identity, str) or len(identity) != _IDENTITY:
            raise TypeError(f"cloudpickle {cloudpickle.__version__} writes classes in an unknown way")
        return make, (*arguments, None, extra), *rest


@contextmanager
def _by_value(value: Any) -> Iterator[None]:
    """Pickle what is defined in a file of this folder whole: other processes do not find that file."""
    kinds = {type(part) for part in value.modules()} if isinstance(value, nn.Module) else {type(value), value}
    names = {getattr(kind, "__module__", None) for kind in kinds} - {None, "__main__"}
    found = [sys.modules[name] for name in names if name in sys.modules]
    local: list[ModuleType] = [module for module in found if not is_installed(module)]
    for module in local:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in local:
            cloudpickle.unregister_pickle_by_value(module)
