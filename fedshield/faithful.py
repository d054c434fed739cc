"""Does a written source mean the object that was given? A file may have been edited since, or a class changed."""

import __future__

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from common.user_code import what_was_raised

_NAME = "fedshield_written"
# Of a class: what differs between two that mean the same.
_OF_PLACE = frozenset(
    (
        *("__module__", "__dict__", "__weakref__", "__doc__", "__qualname__", "__firstlineno__", "__annotations__"),
        *("__static_attributes__", "__annotate_func__", "__annotations_cache__", "__dataclass_fields__", "_abc_impl"),
        "_backward_cls",  # of torch's autograd.Function
    )
)


class Definition(NamedTuple):
    """A function or class of a written file.

    Attributes:
        name: in the file.
        value: as it was given.
        text: that defines it.
        around: the file or cell that has this text.
    """

    name: str
    value: Any
    text: str
    around: str


def why_unfaithful(file: str, definitions: Sequence[Definition]) -> str:
    """Return why a file does not mean what was given, as what follows "because"; "" if it does.

    The file is run: it has nothing but definitions, which every process runs that uses them.

    Args:
        file: its whole text.
        definitions: what is in it, and what each was given as.
    """
    for each in definitions:
        # The same lines are other code beside an import, and IPython compiles each definition of a cell by itself.
        flags, written = _flags(each.value), list[tuple[Any, ...]]()
        for text in (each.around, each.text):
            written += map(_shape, _inside(compile(text, _NAME, "exec", flags, dont_inherit=True)))
        if any(_shape(code) not in written for code in _own_codes(each.value)):
            return f"the file of {each.name} has changed since it was run"
    module = ModuleType(_NAME)
    sys.modules[_NAME] = module  # dataclasses look their module up
    try:
        exec(compile(file, _NAME, "exec"), module.__dict__)  # noqa: S102  # it is the user's own
    except (Exception, SystemExit) as error:
        return f"it cannot be run by itself ({what_was_raised(error)})"
    finally:
        del sys.modules[_NAME]
    for each in definitions:
        with suppress(Exception):  # of what cannot be compared: too deep, or with an equality of its own
            if _alike(each.value, getattr(module, each.name), {}):
                continue
        return f"{each.name} is not what its source says: it was changed after that, or stands for something else"
    return ""


def _functions(value: Any) -> Iterator[FunctionType]:
    """Yield a function without its decorators, or the methods of a class without theirs."""
    for member in vars(value).values() if inspect.isclass(value) else (value,):
        inner = [getattr(member, name, None) for name in ("__func__", "fget", "fset", "fdel")]
        for each in (member, *inner):
            found = inspect.unwrap(each) if callable(each) else each
            if isinstance(found, FunctionType):
                yield found


def _own_codes(value: Any) -> list[CodeType]:
    """Return the code that is written in the definition of a function or class itself."""
    found = list(_functions(value))
    if not inspect.isclass(value):
        return [each.__code__ for each in found]
    inside = [each for each in found if each.__qualname__ == f"{value.__qualname__}.{each.__name__}"]
    files = {each.__code__.co_filename for each in inside} - {"<string>"}  # as of a dataclass's __init__
    return [each.__code__ for each in inside if each.__code__.co_filename in files]


def _flags(value: Any) -> int:
    """Return the flag of ``from __future__ import annotations``, if an object was compiled with it."""
    flag = __future__.annotations.compiler_flag
    return next((each.__code__.co_flags & flag for each in _functions(value)), 0)


def _inside(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _inside(constant)


def _shape(code: CodeType) -> tuple[Any, ...]:
    """Return what code does, without its place in a file."""
    constants = [_shape(each) if isinstance(each, CodeType) else (type(each), each) for each in code.co_consts]
    names = code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return code.co_code, code.co_argcount, code.co_kwonlyargcount, code.co_flags, *names, *constants


def _outline(code: CodeType) -> tuple[Any, ...]:
    """Return what of code stays the same beside other imports and with annotations that are not evaluated."""
    arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    numbers = [each for each in code.co_consts if isinstance(each, int | float | complex | type(None))]
    inner = [each for each in code.co_consts if isinstance(each, CodeType) and each.co_name != "__annotate__"]
    return code.co_name, arguments, numbers, *map(_outline, inner)


def _alike(given: Any, made: Any, seen: dict[tuple[int, int], Any]) -> bool:
    """Return whether two objects are the same but for the place where they were defined; False if that is unknown."""
    if given is made or (id(given), id(made)) in seen:
        return True
    seen[id(given), id(made)] = given, made  # which keeps their identities from being used again
    if type(given).__qualname__ != type(made).__qualname__:
        return False
    if isinstance(given, torch.Tensor | np.ndarray):
        return np.array_equal(_numbers(given), _numbers(made), equal_nan=True)
    if isinstance(given, list | tuple):
        return len(given) == len(made) and all(_alike(*pair, seen) for pair in zip(given, made, strict=True))
    if isinstance(given, Mapping):
        return given.keys() == made.keys() and all(_alike(given[key], made[key], seen) for key in given)
    parts = _parts(given)
    return bool(given == made) if parts is None else _alike(parts, _parts(made), seen)


def _numbers(array: Any) -> Any:
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array


def _parts(value: Any) -> tuple[Any, ...] | None:
    """Return what an object consists of; None where only itself can tell whether it is equal to another."""
    if isinstance(value, FunctionType):
        code = _outline(value.__code__)
        return value.__qualname__, code, value.__defaults__, value.__kwdefaults__, _held(value), value.__dict__
    if inspect.isclass(value):
        own = {name: each for name, each in vars(value).items() if name not in _OF_PLACE}
        return value.__qualname__, value.__bases__, own
    if isinstance(value, staticmethod | classmethod):
        return (value.__func__,)
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, property):
        return value.fget, value.fset, value.fdel
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()) if hasattr(value, name)]
    state = {**getattr(value, "__dict__", {}), **{name: getattr(value, name) for name in slots}}
    return (state,) if state else None


def _held(function: FunctionType) -> list[Any]:
    """Return what a function has of the function around it; nothing of what is not set yet.

    Of what a dataclass generates, these are its annotations, which may be text here and types there.
    """
    found = []
    for cell in () if function.__code__.co_filename == "<string>" else function.__closure__ or ():
        with suppress(ValueError):
            found.append(cell.cell_contents)
    return found
