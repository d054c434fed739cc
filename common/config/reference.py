"""The reference of every configuration key, from the typed model and the file with the defaults.

``uv run python -m common.config.reference > docs/reference.md``
"""

import re
from collections.abc import Mapping
from typing import Any

from common.config.flat import default_config
from common.config.schema import RunConfig
from common.paths import defaults_file

HEAD = f"""# Every key of the configuration

Set a key in a TOML file (`[attack]`, then `epsilon-255 = 4`), with `--set attack.epsilon-255=4`, or in
`flwr run --run-config`. An unknown key, or a value that is not allowed, ends the command with one line that names it.
Each key has an address of its own on this page, such as `#attack.epsilon-255`.
`python -m {__package__}.reference` generates this page from the typed model and the defaults.
"""
_LINE = re.compile(r"(?P<key>[a-z0-9-]+) = [^#]*?(?:#\s*(?P<meaning>.*))?")
_MORE = re.compile(r"\s+#\s*(?P<meaning>.*)")


def reference() -> str:
    """Return the page, as Markdown."""
    schema, defaults, meant = RunConfig.model_json_schema(by_alias=True), default_config(), meanings()
    parts = [HEAD, _table("", "The whole run", schema, defaults, meant)]
    for name, place in schema["properties"].items():
        if "$ref" in place:
            table = schema["$defs"][place["$ref"].rsplit("/", 1)[-1]]
            says = str(table["description"]).split(";")[0].rstrip(".")
            parts.append(_table(f"{name}.", says, table, defaults, meant))
    return "\n".join(parts)


def meanings() -> dict[str, str]:
    """Return the meaning of each dotted key, from the comments next to the defaults, without the names of values."""
    meaning_of: dict[str, str] = {}
    prefix = last = ""
    inside = False
    for line in defaults_file().read_text("utf-8").splitlines():
        if line.startswith("["):
            inside = line.startswith("[tool.flwr.app.config")
            prefix = line.removeprefix("[tool.flwr.app.config").strip("].")
            prefix += "." if prefix else ""
        elif inside and (match := _LINE.fullmatch(line)):
            last = prefix + match["key"]
            meaning_of[last] = (match["meaning"] or "").strip()
        elif inside and (match := _MORE.fullmatch(line)):
            meaning_of[last] = f"{meaning_of[last]} {match['meaning']}".strip()
    return {key: text.split(": ", 1)[-1] if " | " in text else text for key, text in meaning_of.items()}


def _table(
    prefix: str, title: str, schema: Mapping[str, Any], defaults: Mapping[str, Any], meant: Mapping[str, str]
) -> str:
    lines = [f"## {prefix.rstrip('.') or 'seed, threads'}\n", f"{title}.\n"]
    lines += ["| key | allowed | default | meaning |", "|---|---|---|---|"]
    for name, place in schema["properties"].items():
        if "$ref" not in place:
            key = prefix + name
            default = str(defaults[key]).lower() if isinstance(defaults[key], bool) else str(defaults[key])
            cells = f'<a id="{key}"></a>`{key}`', _allowed(place), f"`{default}`" if default else "empty", meant[key]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _allowed(place: Mapping[str, Any]) -> str:
    if "enum" in place:
        return ", ".join(f"`{value}`" for value in place["enum"])
    kind = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "string": "text"}
    text = kind.get(str(place.get("type")), "text, separated by commas")
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "multipleOf": "× "}
    limits = [f"{sign} {place[name]:g}" for name, sign in bounds.items() if name in place]
    return ", ".join([text, *limits]).replace("×  ", "a multiple of ")


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201
