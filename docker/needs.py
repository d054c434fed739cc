"""Write what pyproject.toml asks for as pip reads it: needs.txt, constraints.txt, overrides.txt."""

import tomllib
from pathlib import Path

content = tomllib.loads(Path("pyproject.toml").read_text())
uv = content["tool"]["uv"]
extras = content["project"]["optional-dependencies"]
for name, lines in (
    ("needs", [*content["project"]["dependencies"], *extras["prometheus"], *extras["dp"]]),
    ("constraints", uv["constraint-dependencies"]),
    ("overrides", uv["override-dependencies"]),
):
    Path(f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
