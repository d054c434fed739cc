"""Who may import whom (see CONTRIBUTING.md)."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("common", "client", "server", "simulations")
ALLOWED = {
    "common": {"common"},
    "client": {"client", "common"},
    "server": {"server", "common"},
    "simulations": {"simulations", "server", "client", "common"},
}
# Rooms of `common`, each with the rooms it may use. Those not named may be used by all and use nothing.
LEAVES = {
    "config": {"errors", "flat", "own", "words"},
    "flat": {"errors", "parsing", "paths"},
    "own": {"errors", "paths"},
    "borrowed": {"errors", "flat", "modes", "own"},
    "published": {"errors"},
    "cost": {"own"},
    "cache": {"errors", "paths"},
    "data": {"cache", "errors", "images", "paths", "published", "seeding", "shapes"},
    "holdings": {"data", "partition"},
    "images": {"errors"},
    "files": {"errors", "parsing"},
    "parsing": {"errors"},
    "paths": {"errors"},
    "links": {"errors", "words"},
    "split": {"cache", "data", "errors", "files", "holdings", "images", "links", "partition", "paths"},
    "partition": {"cache", "data", "errors", "paths", "seeding"},
    "models": {"activations", "borrowed", "modes", "seeding"},
    "attacks": {"errors", "margin", "modes", "own"},
    "exported": {"errors", "models", "own", "trust"},
    "trust": {"errors"},
    "mixture": {"attacks"},
    "losses": {"attacks", "errors", "mixture", "own"},
    "training": {"errors", "losses", "seeding"},
    "evaluation": {"accuracy", "attacks", "errors", "kept", "own", "seeding", "training"},
    "kept": {"errors", "files", "paths"},
    "reach": {"errors", "words"},
    "examples": {"accuracy", "attacks", "seeding", "training"},
    "checks": {"accuracy", "attacks", "evaluation", "seeding", "training"},
    "records": {"cache", "data", "errors", "paths"},
    "setup": {
        *{"attacks", "config", "data", "errors", "holdings", "losses", "machine", "models", "own", "partition"},
        *{"paths", "schedule", "split", "training"},
    },
}


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, in functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module}
    return found


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def test_rooms_import_only_what_they_may() -> None:
    for room in ROOMS:
        for path in sources(room):
            used = {name.split(".")[0] for name in imports(path)} & set(ROOMS)
            assert used <= ALLOWED[room], f"{path.relative_to(ROOT)} imports {used - ALLOWED[room]}"


def test_inside_common_the_arrows_point_one_way() -> None:
    for path in sources("common"):
        used = {name.split(".")[1] for name in imports(path) if name.startswith("common.")}
        allowed = LEAVES.get(path.stem, set())
        assert used <= allowed, f"{path.name} imports {used - allowed}"


def test_in_common_only_records_and_their_packing_know_flower() -> None:
    knowing = {path.stem for path in sources("common") if any(name.split(".")[0] == "flwr" for name in imports(path))}
    assert knowing == {"records", "packing"}
