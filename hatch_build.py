"""Builds the wheel: one package, ``fedshield``, with the folders of a checkout inside.

Installed as they are, folders with names such as ``common`` would stand in the way of a user's own modules. So they
become ``fedshield.common`` and so on, and their imports are written anew. A checkout is used as it is.
"""

import ast
import re
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "fedshield"
FOLDERS = ("client", "common", "server", "simulations")
KINDS = {".py", ".typed", ".toml", ".html", ".css", ".js"}
_EXAMPLE = re.compile(rf">>> from (?=(?:{'|'.join(FOLDERS)})\b)")  # in a docstring


class OnePackage(BuildHookInterface[Any]):
    """The hook that ``[tool.hatch.build.targets.wheel.hooks.custom]`` names."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the package, and tell the builder where it is."""
        if version != "editable":
            self._made = tempfile.TemporaryDirectory(prefix=f"{PACKAGE}-wheel-")
            write_package(Path(self.root), Path(self._made.name))
            build_data["force_include"][self._made.name] = PACKAGE

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was written."""
        if version != "editable":
            self._made.cleanup()


def write_package(checkout: Path, made: Path) -> None:
    """Write the package's files into a folder.

    Args:
        checkout: with the folders; or an unpacked sdist, which has the same.
        made: the folder that becomes the package.
    """
    for folder in (PACKAGE, *FOLDERS):
        for path in sorted((checkout / folder).rglob("*")):
            if path.is_file() and path.suffix in KINDS:
                place = made / path.relative_to(checkout / PACKAGE if folder == PACKAGE else checkout)
                place.parent.mkdir(parents=True, exist_ok=True)
                content = path.read_bytes()
                place.write_bytes(renamed(content.decode()).encode() if path.suffix == ".py" else content)
    # The defaults are in this file; see `defaults_file` in common/paths.py.
    (made / "common" / "pyproject.toml").write_bytes((checkout / "pyproject.toml").read_bytes())


def renamed(code: str) -> str:
    """Return a source whose imports of FedShield's folders are those of the package.

    Raises:
        ValueError: an ``import common.x``, which binds the name ``common``; ``from common import x`` can be renamed.
    """
    lines = code.split("\n")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import) and any(_is_ours(alias.name) for alias in node.names):
            raise ValueError(f"line {node.lineno}: {ast.unparse(node)}; write from ... import ...")
        if isinstance(node, ast.ImportFrom) and not node.level and _is_ours(node.module or ""):
            line = lines[node.lineno - 1].encode()
            head, tail = line[: node.col_offset].decode(), line[node.col_offset :].decode()
            lines[node.lineno - 1] = head + re.sub(r"^from\s+", f"from {PACKAGE}.", tail)
    return _EXAMPLE.sub(f">>> from {PACKAGE}.", "\n".join(lines))


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in FOLDERS
