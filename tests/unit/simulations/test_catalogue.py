"""``fedshield list``: everything that can be named is there, with a line about it."""

import shlex
import tomllib
from pathlib import Path

import click
import pytest
import typer

from common.attacks.library import ATTACKS
from common.config.flat import default_config, read_toml
from common.methods.library import METHODS
from common.models.activations import ACTIVATIONS
from common.models.networks import MODELS
from common.training.losses import LOSSES
from server.aggregation.rules import RULES
from simulations.catalogue import KINDS, described, first_paragraph
from simulations.cli.catalogue_commands import Listed
from simulations.cli.main import app
from simulations.cli.options import SomePath
from simulations.shipped import PRESETS
from tests.helpers.program import invoke

TABLES = {
    "models": MODELS,
    "losses": LOSSES,
    "methods": METHODS,
    "strategies": RULES,
    "activations": ACTIVATIONS,
    "attacks": {name: attack for name, attack in ATTACKS.items() if name != "kl"},  # only trades uses it
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_name_has_a_line_about_it(kind: str) -> None:
    found = described(kind)
    assert found
    for name, words in found.items():
        assert len(words) > 10, name
        assert "\n" not in words
        assert "partial(func" not in words
    if kind in TABLES:
        assert found.keys() >= TABLES[kind].keys()


def test_a_docstring_is_one_line() -> None:
    assert first_paragraph("\n    One ``two``\n    three.\n\n    Four.") == "One two three."


def test_list_names_all_kinds_and_runs() -> None:
    overview = invoke("list")
    assert overview.returncode == 0, overview.stderr
    assert [line.split(":")[0] for line in overview.stdout.splitlines()[:-1]] == list(KINDS)
    losses = invoke("list", "losses")
    assert losses.stdout.startswith("pgd-at ")
    assert losses.stdout.splitlines()[-1] == "Use: --set loss.name=NAME"


def test_config_marks_what_differs_and_can_be_used_as_a_file(tmp_path: Path) -> None:
    done = invoke("config", "cpu-cifar10", "--set", "seed=2")
    assert done.returncode == 0, done.stderr
    (tmp_path / "my.toml").write_text(done.stdout)
    found = read_toml(tmp_path / "my.toml")
    expected = {**default_config(), **read_toml(PRESETS / "cpu-cifar10.toml"), "seed": 2}
    assert found == expected
    marked = [line for line in done.stdout.splitlines() if "# default = " in line]
    assert marked[0] == "seed = 2  # default = 1"
    assert len(marked) == sum(value != default_config()[key] for key, value in expected.items())
    changed = invoke("config", "cpu-cifar10", "--changed", "--set", "seed=2").stdout.splitlines()
    assert [line for line in changed if " = " in line] == marked
    assert invoke("config", "--changed").stdout == "# nothing differs from the defaults\n"
    doubted = invoke("config", "--set", "attack.epsilon-255=0.03").stdout
    assert doubted.splitlines()[-1].startswith("# warning: attack.epsilon-255 = 0.03: in 1/255 of the pixel range")
    assert tomllib.loads(doubted)["attack"]["epsilon-255"] == 0.03
    wrong = invoke("config", "--set", "model.width=0")
    assert (wrong.returncode, wrong.stdout) == (1, "")


def test_wrong_usage_is_one_line_with_a_near_match() -> None:
    for arguments, line in (
        (("--sed",), "No such option '--sed'"),
        (("evaluat",), "evaluat: no such command; did you mean evaluate?"),
        (
            ("run", "--workers", "0"),
            "run: Invalid value for '--workers': 0 is not in the range x>=1; see fedshield run --help",
        ),
        (
            ("run", "--results", ""),
            "run: Invalid value for '--results': is empty; give the path; see fedshield run --help",
        ),
        (
            ("list", "PRESET"),
            f"list: Invalid value for '[KIND]': 'PRESET' is not one of {', '.join(map(repr, map(str, Listed)))}; "
            "did you mean presets?; see fedshield list --help",
        ),
        (("evaluate",), "evaluate: Missing argument 'RUN_DIR'; see fedshield evaluate --help"),
    ):
        done = invoke(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines()[0].startswith(f"fedshield: {line}")
        assert len(done.stderr.splitlines()) == 1
    assert invoke("--version").stdout.startswith("fedshield")


def test_no_command_takes_an_empty_path() -> None:
    # As of a shell's variable that is not set; it would be the working directory.
    group = typer.main.get_group(app)
    paths = [
        (f"{name} {parameter.name}", type(parameter.type))
        for name, command in group.commands.items()
        for parameter in command.params
        if isinstance(parameter.type, click.Path)
    ]
    assert len(paths) > 20
    assert [path for path, kind in paths if kind is not SomePath] == []


def test_a_folder_of_runs_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = invoke("runs", "--results", tmp_path / "file")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"fedshield: {tmp_path / 'file'}: a file; give the folder with the runs\n"


def test_a_study_is_no_preset_and_the_other_way_round(tmp_path: Path) -> None:
    for command, name, line in (
        ("run", "cpu-sharing", "cpu-sharing: is a study; run it with: fedshield sweep cpu-sharing"),
        ("sweep", "quickstart", "quickstart: is a preset; run it with: fedshield run quickstart"),
    ):
        done = invoke(command, name, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (1, f"fedshield: {line}\n")


def test_certificates_come_with_the_next_commands(tmp_path: Path) -> None:
    done = invoke("certs", "--out", tmp_path / "my fed", "--clients", "2", "--host", "fl.example.org")
    assert done.returncode == 0, done.stderr
    register, submit, _, supernode = (shlex.split(line) for line in done.stdout.splitlines()[-4:])
    assert register[:3] == ["fedshield", "register", f"{tmp_path}/my fed/operator/clients"]
    assert submit[:2] == ["fedshield", "submit"]
    assert f"data.root={tmp_path}/my fed" in submit
    assert supernode[:3] == ["fedshield-supernode", "--superlink", "fl.example.org:8443"]
    assert supernode[-1] == 'partition-id=0 num-partitions=2 data-path="."'
    for path in (register[2], register[-1]):
        assert Path(path).exists()
    first, divide = done.stdout.splitlines()[-7:-5]
    assert first == "Next: divide the images, if the clients have none of their own yet, as in:"
    split = invoke(*shlex.split(divide)[1:], "--set", "data.max-examples=200")
    assert split.returncode == 0, split.stderr
    again = invoke("certs", "--out", tmp_path / "my fed", "--clients", "2")
    assert "divide the images" not in again.stdout
