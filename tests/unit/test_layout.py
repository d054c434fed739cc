"""Who may import whom (see CONTRIBUTING.md)."""

import ast
import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from common.messages import protocol
from common.paths import ROOT

ALLOWED = {
    "common": {"common"},
    "client": {"client", "common"},
    "server": {"server", "common"},
    "simulations": {"simulations", "server", "client", "common"},
    "fedshield": {"fedshield", "simulations", "server", "client", "common"},
}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for top in ALLOWED
    for path in sorted((ROOT / top).rglob("*.py"))
}


def named(path: Path) -> set[str]:
    """Return all that a file imports, in functions too: modules, and what may be a module of a package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


USES = {name: (named(path) & FILES.keys()) - {name} for name, path in FILES.items()}


def folder(name: str) -> str:
    """Return the folder of a module; one that lies directly in a top folder counts as a folder."""
    return ".".join(name.split(".")[:2])


def no_circle(uses: Mapping[str, set[str]]) -> None:
    try:
        TopologicalSorter(uses).prepare()
    except CycleError as error:
        raise AssertionError(f"an import circle: {' <- '.join(error.args[1])}") from None


_CONFIGURATION = {f"common.config.{name}" for name in ("schema", "tables", "data_tables")}


def test_top_folders_import_only_what_they_may() -> None:
    for name, used in USES.items():
        top = name.partition(".")[0]
        reached = {other.partition(".")[0] for other in used}
        assert reached <= ALLOWED[top], f"{name} imports {reached - ALLOWED[top]}"


def test_no_module_imports_in_a_circle() -> None:
    no_circle(USES)


def test_no_folder_imports_in_a_circle() -> None:
    folders: dict[str, set[str]] = {}
    for name, used in USES.items():
        folders.setdefault(folder(name), set()).update({folder(other) for other in used} - {folder(name)})
    no_circle(folders)


def test_of_common_only_the_messages_know_flower() -> None:
    knowing = {name for name, path in FILES.items() if any(used.split(".")[0] == "flwr" for used in named(path))}
    assert {folder(name) for name in knowing if name.startswith("common.")} == {"common.messages"}


def test_no_module_is_named_in_a_string() -> None:
    """In the wheel it has another name, of which only imports know; see hatch_build.py."""
    for name, path in FILES.items():
        tree = ast.parse(path.read_text())
        described = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in described:
                assert not {*re.findall(r"\w+(?:\.\w+)+", node.value)} & FILES.keys(), f"{name}, line {node.lineno}"


def test_the_keys_of_a_message_are_written_in_one_place() -> None:
    keys = {value for name, value in vars(protocol).items() if name.isupper() and "-" in value}
    for name, path in FILES.items():
        if name.split(".")[0] in ("client", "server", "common") or folder(name) == "simulations.engine":
            written = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not written & keys or name == protocol.__name__, name


def test_of_common_only_the_factory_knows_a_run_config() -> None:
    knowing = {name for name, used in USES.items() if used & _CONFIGURATION}
    assert {name for name in knowing if name.startswith("common.") and folder(name) != "common.config"} == {
        "common.factory"
    }


def test_no_test_imports_a_benchmark() -> None:
    for path in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "nightly").glob("*.py")]:
        assert not {name for name in named(path) if name.split(".")[0] == "benchmarks"}, path


def test_files_and_functions_can_be_read_at_once() -> None:
    for path in [*FILES.values(), *(ROOT / "benchmarks").rglob("*.py")]:
        text = path.read_text()
        assert text.count("\n") <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                assert (node.end_lineno or 0) - first.lineno < 45, f"{path}: {node.name}"
