"""The source of a function or class, with all that it uses, as a file of its own."""

import ast
import inspect
import linecache
import os
import symtable
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import fedshield.own
from common.errors import FedShieldError
from common.paths import ROOT
from fedshield.faithful import Definition, why_unfaithful

_LITERALS = (bool, int, float, complex, str, bytes, type(None), tuple, list, dict, set)
_LONGEST = 10_000  # characters of a constant
_HEAD = '"""Written by fedshield, from objects of a script or a notebook."""\n\nfrom __future__ import annotations\n'


class UnwritableError(Exception):
    """An object that cannot be written as source; the message says why, as what follows "because".

    Attributes:
        text: a source that may mean something else; "" if there is none.
    """

    def __init__(self, why: str, text: str = "") -> None:
        super().__init__(why)
        self.text = text


def source_of(value: Any, name: str) -> str:
    """Return a Python file in which ``name`` is ``value``: its definition, and those of what it uses.

    What is installed is imported. Functions, classes and constants of the script, the notebook, or of a file in the
    working directory are written down.

    Args:
        value: a function or a class.
        name: in the file.

    Raises:
        UnwritableError: it is made inside another function, uses something that is neither of these, or is no longer
            what its source says.
        FedShieldError: it uses a module of the working directory as a whole.
    """
    file = _File()
    file.add(name, value)
    text = "\n".join([_HEAD, *sorted(file.imports), "", "", "\n\n".join(file.parts), ""])
    if why := why_unfaithful(text, file.definitions):
        raise UnwritableError(why, text)
    return text


class _File:
    """A file in the making."""

    def __init__(self) -> None:
        self.imports: set[str] = set()
        self.parts: list[str] = []
        self.definitions: list[Definition] = []
        self._known: dict[str, Any] = {}

    def add(self, name: str, value: Any) -> None:
        """Give a name its meaning, after those that this needs."""
        if name in self._known:
            if self._known[name] is not value:
                raise UnwritableError(f"two different things that it uses are called {name}")
            return
        self._known[name] = value
        if isinstance(value, ModuleType):
            if not is_installed(value):
                raise FedShieldError(
                    f"{name}: is a file of this folder, which other processes do not find; import what is used of it "
                    f"by name: from {value.__name__} import ..."
                )
            self.imports.add(f"import {value.__name__} as {name}" if name != value.__name__ else f"import {name}")
        elif (home := _home(value)) is not None:
            self.imports.add(f"from {home} import {value.__name__}" + (f" as {name}" * (name != value.__name__)))
        elif inspect.isclass(value) or isinstance(value, FunctionType):
            self._define(name, value)
        elif _is_literal(value):
            self.parts.append(f"{name} = {value!r}\n")
        else:
            raise UnwritableError(f"it uses {name}, a {type(value).__name__}")

    def _define(self, name: str, value: Any) -> None:
        text, around, meanings = _definition(value)
        for needed in sorted(_needs(text)):
            if needed in meanings and needed != value.__name__:
                self.add(needed, meanings[needed])
        self.definitions.append(Definition(name, value, text, around))
        self.parts.append(text if name == value.__name__ else f"{text}\n\n{name} = {value.__name__}\n")


def is_installed(module: ModuleType) -> bool:
    """Return whether every process of this Python finds the module, wherever it is started."""
    if module.__name__.partition(".")[0] == "__main__":
        return False
    origin = getattr(module, "__file__", None)
    if origin is None:  # built in, or a namespace
        return True
    path = Path(origin).resolve()
    prefixes = (sys.prefix, sys.base_prefix, ROOT)
    if any(path.is_relative_to(Path(prefix).resolve()) for prefix in prefixes):
        return True
    return not path.is_relative_to(os.getcwd())


def _home(value: Any) -> str | None:
    """Return the installed module from which something can be imported by its own name."""
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    name = getattr(value, "__name__", None)
    if name in fedshield.own.__all__ and getattr(fedshield.own, name) is value:
        return fedshield.__name__  # the address that stays
    if module is None or not isinstance(name, str) or not is_installed(module):
        return None
    return module.__name__ if getattr(module, name, None) is value else None


def _is_literal(value: Any) -> bool:
    try:
        text = repr(value) if isinstance(value, _LITERALS) else ""
        return 0 < len(text) <= _LONGEST and bool(ast.literal_eval(text) == value)
    except (ValueError, SyntaxError):
        return False


def _definition(value: Any) -> tuple[str, str, Mapping[str, Any]]:
    """Return the source of a function or class, that of all around it, and what the names in it mean."""
    inner = inspect.unwrap(value)
    function = _method(inner) if inspect.isclass(inner) else inner
    if not isinstance(function, FunctionType):
        raise UnwritableError(f"{value.__name__} has no method whose source is known")
    if "<locals>" in value.__qualname__ or set(function.__code__.co_freevars) - {"__class__"}:
        raise UnwritableError(f"{value.__name__} is made inside another function")
    lines = linecache.getlines(function.__code__.co_filename)
    around = "".join(lines)
    try:
        tree = ast.parse(around)
    except (SyntaxError, ValueError) as error:  # a cell with a magic command: only as it was typed
        raise UnwritableError(f"the source of {value.__name__} cannot be read") from error
    at = _at(tree, value.__name__, function.__code__)
    if at is None:
        raise UnwritableError(f"the source of {value.__name__} is not known")
    return textwrap.dedent("".join(lines[at[0] - 1 : at[1]])), around, function.__globals__


def _method(kind: type) -> Any:
    """Return a function that is written in the body of a class, which knows where that is."""
    own = (getattr(each, "__func__", each) for each in vars(kind).values())
    inside = (each for each in own if isinstance(each, FunctionType))
    return next((each for each in inside if each.__qualname__ == f"{kind.__qualname__}.{each.__name__}"), None)


def _at(tree: ast.Module, name: str, code: CodeType) -> tuple[int, int] | None:
    """Return the first and the last line of the definition of this name that contains the code."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            last = node.end_lineno or node.lineno
            if first <= code.co_firstlineno <= last:
                return first, last
    return None


def _needs(text: str) -> set[str]:
    """Return the names that a definition takes from around it."""
    found: set[str] = set()
    tables = [symtable.symtable(f"from __future__ import annotations\n{text}", "definition", "exec")]
    while tables:
        table = tables.pop()
        found |= {each.get_name() for each in table.get_symbols() if each.is_global() and each.is_referenced()}
        tables += table.get_children()
    return found
