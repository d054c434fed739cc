"""The pages of all keys and of all commands are those of the code."""

import re

from common.config.flat import default_config
from common.config.reference import meanings, reference
from common.paths import ROOT
from simulations.cli.reference import reference as commands


def test_the_committed_page_is_that_of_the_model_and_the_defaults() -> None:
    again = "uv run python -m common.config.reference > docs/reference.md"
    assert (ROOT / "docs" / "reference.md").read_text() == reference(), again


def test_the_committed_page_of_commands_is_that_of_the_commands() -> None:
    again = "uv run python -m simulations.cli.reference > docs/commands.md"
    assert (ROOT / "docs" / "commands.md").read_text() == commands(), again


def test_every_key_has_its_range_its_default_and_a_meaning() -> None:
    page, meant = reference(), meanings()
    for key, default in default_config().items():
        row = next(line for line in page.splitlines() if line.startswith(f'| <a id="{key}"></a>`{key}` |'))
        _, _, allowed, shown, meaning, _ = (cell.strip() for cell in re.split(r"(?<!\\)\|", row))
        assert allowed
        text = str(default).lower() if isinstance(default, bool) else str(default)
        assert shown == (f"`{text}`" if text else "empty")
        assert meaning == meant[key] != ""
    assert "`data.image-size` | whole number, ≥ 16, ≤ 512, a multiple of 16 | `32` |" in page
    assert "`train.momentum` | number, ≥ 0, < 1 | `0.9` |" in page
    assert "`loss.calfat-attack` | `kl`, `pgd` |" in page
