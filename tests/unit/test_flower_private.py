"""The list of Flower's private names that the code uses is complete, and Flower has each of them."""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import flwr
import pytest

from common.paths import ROOT
from tests.helpers.flower_private import USES, Use

DOCUMENTED = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy")
PUBLIC = {f"{module}.{name}" for module in DOCUMENTED for name in import_module(module).__all__}
COMMANDS = {script.name for script in distribution("flwr").entry_points} - {"flwr"}


def modules() -> Iterator[ast.Module]:
    for top in ("client", "common", "fedshield", "server", "simulations"):
        for path in (ROOT / top).rglob("*.py"):
            yield ast.parse(path.read_text())


def private_names(tree: ast.Module) -> set[str]:
    """Return the names of Flower's in a module that no documented package has.

    Of a private attribute of an object, only running the code would tell whose it is: it is listed by itself.
    """
    bound, names = {}, set()
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] == "flwr":
                bound |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
            case ast.Constant(value=str(text)):
                names |= in_text(text)
            case ast.Attribute(value=ast.Name(id="self"), attr=attribute, ctx=ast.Store()):
                own.add(attribute)
    for node in ast.walk(tree):
        match node:
            # flower: Any = module
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Name(id=value)) if value in bound:
                bound[name] = bound[value]
            case ast.AnnAssign(
                target=ast.Name(id=name), value=ast.Call(func=ast.Name("import_module"), args=[ast.Constant(value)])
            ):
                bound[name] = value
    names |= set(bound.values())
    for node in ast.walk(tree) if names else ():
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in bound:
                names.add(f"{bound[name]}.{attribute}")
            case ast.Attribute(attr=attribute) if re.match(r"_[a-z]", attribute) and attribute not in own:
                names.add(attribute)
            case ast.Subscript(value=ast.Attribute(value=ast.Attribute(), attr="__dict__"), slice=ast.Constant(value)):
                names.add(value)
            case ast.Name(id="__qualname__"):
                names.add("__qualname__")
    return {name for name in names if name not in PUBLIC and name.rpartition(".")[0] not in PUBLIC}


def in_text(text: str) -> set[str]:
    """Return what a string says of Flower's: a module, a variable of the environment, a command, or code."""
    code = {f"{module}.{name}" for module, name in re.findall(r"from (flwr[\w.]*) import (\w+)", text)}
    return code | ({text} if text in COMMANDS or re.fullmatch(r"flwr(\.\w+)+|FLWR_\w+", text) else set())


def test_every_private_name_of_flowers_is_listed_and_used() -> None:
    used = set().union(*map(private_names, modules()))
    listed = {name for use in USES for name in use.names}
    by_attribute = {name.rpartition(".")[2]: name for name in listed}
    named = {name if "." in name else by_attribute.get(name, name) for name in used}
    assert sorted(named - listed) == [], "not in tests/helpers/flower_private.py"
    assert sorted(listed - named) == [], "not used any more"


def has(name: str) -> bool:
    """Return whether Flower has a name; what an object gets when it is made is in the code of its class."""
    if not name.startswith("flwr."):
        return name in COMMANDS or any(name in path.read_text() for path in Path(flwr.__path__[0]).rglob("*.py"))
    path, _, last = name.rpartition(".")
    try:
        import_module(name)
    except ModuleNotFoundError:
        place = resolve(path)
        return (
            last in {*dir(place), *dir(type(place))} or re.search(rf"\b{last}\b", inspect.getsource(place)) is not None
        )
    return True


def resolve(name: str) -> Any:
    """Return a module, or what is in one; of two of the same name, the module."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        path, _, last = name.rpartition(".")
        return getattr(resolve(path), last)


@pytest.mark.parametrize("use", USES, ids=lambda use: use.why)
def test_flower_has_every_name(use: Use) -> None:
    assert [name for name in (*use.names, *use.members) if not has(name)] == []


@pytest.mark.parametrize("use", USES, ids=lambda use: use.why)
def test_the_named_test_is_there(use: Use) -> None:
    file, _, name = use.test.partition("::")
    (path,) = (ROOT / "tests").rglob(file)
    tree = ast.parse(path.read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
