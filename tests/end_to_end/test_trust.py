"""Code that came with somebody else's run or model: it runs from there alone, and only when the user says so."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from common.config.schema import RunConfig
from common.errors import FedShieldError
from common.exported import ARCHITECTURE, load_exported
from common.trust import is_trusted, require_trust, trust
from server.app import run_federation
from server.evaluation import evaluate_run
from server.run_directory.reader import FEDERATION
from simulations.attack_images import attack_pictures
from simulations.cli.options import new_or_stored
from simulations.engine.executor import InProcess
from simulations.engine.local_grid import LocalGrid
from simulations.export.formats import export_run
from simulations.reports.compare import compare_runs
from simulations.reports.html.write import write_report
from tests.helpers.runs import run

CODE = """
import pathlib
import torchattacks
from torch import nn
from torch.nn import functional

with pathlib.Path({mark!r}).open("a") as file:
    file.write("ran ")

def network(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))

def loss(model, context):
    return lambda images, labels: functional.cross_entropy(model(images), labels)

def attack(model, threat, classes):
    return torchattacks.FGSM(model, threat.epsilon)
"""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Is there once the code has run."""
    return tmp_path / "mark"


@pytest.fixture
def code(tmp_path: Path, mark: Path) -> Path:
    """A file on this machine."""
    (tmp_path / "mine.py").write_text(CODE.format(mark=str(mark)))
    return tmp_path / "mine.py"


@pytest.fixture
def made(tmp_path: Path, code: Path) -> Path:
    """A run with code of the user's own."""
    changes = {"model__name": f"{code}:network", "federation__rounds": 1, "evaluate__final_attacks": "fgsm"}
    return run(tmp_path, "made", **changes, loss__name=f"{code}:loss", attack__name=f"{code}:attack")


@pytest.fixture
def received(made: Path, code: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run at somebody else's, who has not the file that it was made with."""
    code.unlink()
    elsewhere(made.parent / "elsewhere", monkeypatch)
    mark.unlink()
    return made


def elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a user who has run nothing yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))


def picture(folder: Path) -> Path:
    Image.fromarray(np.full((32, 32, 3), 99, np.uint8)).save(folder / "gray.png")
    return folder / "gray.png"


def resumed(path: Path, *changes: str, trust_code: bool = False) -> RunConfig:
    given = ["federation.rounds=2", *changes]
    return new_or_stored(None, given, None, None, path, FEDERATION.name, trust_code)


def resume(path: Path, trust_code: bool = False) -> object:
    config = resumed(path, trust_code=trust_code)
    return run_federation(LocalGrid(config, InProcess()), config)


COMMANDS: dict[str, Callable[[Path, bool], object]] = {
    "evaluate": lambda path, asked: evaluate_run(path, {}, trust_code=asked),
    "export": lambda path, asked: export_run(path, "safetensors", trust_code=asked),
    "attack": lambda path, asked: attack_pictures(path, [picture(path.parent)], "fgsm", 8, None, trust_code=asked),
    "resume": resume,
}


def test_what_was_made_here_is_not_asked_about(made: Path) -> None:
    for command in COMMANDS.values():
        command(made, False)
    load_exported(made / "export" / "model.safetensors")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_code_of_a_received_run_runs_only_when_the_user_says_so(
    received: Path, mark: Path, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(FedShieldError, match=r"^.*/made/own/model\.py: this code has not run here before, and") as told:
        COMMANDS[command](received, False)
    assert "--trust-code" in str(told.value)
    assert not mark.exists()
    logging.getLogger("fedshield").propagate = True
    COMMANDS[command](received, True)
    assert mark.exists()
    assert f"{received / 'own' / 'model.py'}: this code runs now, because --trust-code was given" in caplog.text
    COMMANDS["evaluate"](received, False)  # which was not asked about again: it is the same code


def test_examples_are_made_on_a_received_run_only_when_the_user_says_so(
    received: Path, mark: Path, tmp_path: Path
) -> None:
    own = run(tmp_path, "own", federation__rounds=1)
    changes = {"evaluate.final-attacks": "fgsm", "evaluate.final-examples": 10}
    with pytest.raises(FedShieldError, match=r"^.*/made/own/model\.py: this code has not run here before, and") as told:
        evaluate_run(own, changes, made_on=[received])
    assert "--trust-code" in str(told.value)
    assert not mark.exists()
    (received / "own" / "loss.py").write_text("raise SystemExit('no example is made with the loss')")
    assert "fgsm from made" in evaluate_run(own, changes, trust_code=True, made_on=[received]).record["robust"]
    assert mark.exists()


def test_what_needs_no_code_runs_none(received: Path, mark: Path, tmp_path: Path) -> None:
    write_report(received)
    compare_runs([received, shutil.copytree(received, tmp_path / "again")])
    (received / "own" / "loss.py").write_text("raise SystemExit('the loss is not measured')")
    (received / "own" / "attack.py").write_text("raise SystemExit('nor the attack of training')")
    assert not mark.exists()
    evaluate_run(received, {}, trust_code=True)


def test_a_received_run_goes_on_with_the_code_that_it_has_kept(received: Path) -> None:
    resume(received, True)
    stored = json.loads((received / "config.json").read_text())
    assert stored["model"]["name"] == f"{received / 'own' / 'model.py'}:network"
    assert [line["round"] for line in map(json.loads, (received / "metrics.jsonl").read_text().splitlines())] == [1, 2]
    # Wherever it is then.
    moved = received.rename(received.with_name("moved"))
    config = resumed(moved, "federation.rounds=3")
    assert config.model.name == f"{moved / 'own' / 'model.py'}:network"
    run_federation(LocalGrid(config, InProcess()), config)


@pytest.mark.parametrize("name", ["~nobody-of-that-name/x.py", "\0x.py", f"{'x' * 300}.py", "/proc/1/root/x.py"])
def test_a_name_that_can_be_no_file_here_is_as_good_as_one_that_is_not_there(received: Path, name: str) -> None:
    edit(received, model__name=f"{name}:network")
    assert resumed(received, trust_code=True).model.name == f"{received / 'own' / 'model.py'}:network"
    (received / "own" / "model.py").unlink()
    with pytest.raises(FedShieldError, match=r"no file|too long|Permission denied"):
        evaluate_run(received, {}, trust_code=True)


def edit(path: Path, **changes: str) -> None:
    """Change keys of a run's configuration, as whoever sends it can."""
    config = json.loads((path / "config.json").read_text())
    for key, value in changes.items():
        table, _, name = key.partition("__")
        config[table][name.replace("_", "-")] = value
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_file_of_this_machine_runs_because_a_configuration_names_it(
    received: Path, mark: Path, command: str, trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tool.py").write_text(CODE.format(mark=str(mark)) + "# a file of the reader's\n")
    monkeypatch.chdir(tmp_path)
    for name in (f"{tmp_path}/tool.py", "tool.py", f"../{tmp_path.name}/tool.py"):
        bare = shutil.copytree(received, tmp_path / "bare", dirs_exist_ok=True)
        edit(bare, model__name=f"{name}:network")
        (bare / "own" / "model.py").unlink(missing_ok=True)
        with pytest.raises(
            FedShieldError, match=r"model\.name = .*: the run contains no copy of this code, and it has not"
        ):
            COMMANDS[command](bare, trusted)
        if command == "resume":  # where the file, if it is there, is what runs: it must be the copy
            kept = shutil.copytree(received, tmp_path / "kept", dirs_exist_ok=True)
            edit(kept, model__name=f"{name}:network")
            with pytest.raises(FedShieldError, match="has changed since the run started; use the run's copy"):
                COMMANDS[command](kept, trusted)
    assert not mark.exists()


@pytest.mark.parametrize("key", ["evaluate__attacks", "evaluate__final_attacks"])
def test_an_attack_that_a_received_configuration_names_is_run_when_the_user_names_it(
    received: Path, mark: Path, key: str, tmp_path: Path
) -> None:
    (tmp_path / "tool.py").write_text(CODE.format(mark=str(mark)) + "# a file of the reader's\n")
    attack = f"{tmp_path / 'tool.py'}:attack-3x2"
    for path in received.glob("own/*.py"):
        trust(path.read_bytes(), path)
    edit(received, **{key: attack})
    commands = {"resume", *({"evaluate"} if "final" in key else ())}
    for command in commands:
        with pytest.raises(
            FedShieldError, match=r"attacks = .*tool\.py:attack: the run contains no copy of this code, and"
        ):
            COMMANDS[command](received, True)
    assert not mark.exists()
    evaluate_run(received, {"evaluate.final-attacks": attack, "evaluate.final-examples": 10})
    assert resumed(received, f"{key.replace('__', '.').replace('_', '-')}={attack}").evaluate


def test_a_copy_that_is_a_link_to_elsewhere_is_not_run(received: Path, mark: Path, tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text(CODE.format(mark=str(mark)))
    (received / "own" / "model.py").unlink()
    (received / "own" / "model.py").symlink_to(tmp_path / "tool.py")
    with pytest.raises(FedShieldError, match=r"own/model\.py is a link to .*/tool\.py, which could be read"):
        evaluate_run(received, {}, trust_code=True)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["{tmp}/tool.py", "../tool.py", "tool.py", "sub/model.py", "./model.py"])
def test_a_model_alone_runs_no_file_that_it_names(name: str, tmp_path: Path, mark: Path) -> None:
    for place in ("tool.py", "lone/tool.py", "lone/sub/model.py", "lone/model.py"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(CODE.format(mark=str(mark)))
    network = {"name": f"{name.format(tmp=tmp_path)}:network", "width": 8, "activation": "relu", "downsample": True}
    told = json.dumps({"network": {**network, "stem": "small"}, "classes": ["a", "b"], "image-size": 32})
    save_file({"1.weight": torch.zeros(2, 3072), "1.bias": torch.zeros(2)}, tmp_path / "lone/m", {ARCHITECTURE: told})
    for trusted in (False, True):
        with pytest.raises(FedShieldError, match=r"lone/m: names the code .*; only model\.py next to it may run"):
            load_exported(tmp_path / "lone" / "m", trust_code=trusted)
    assert not mark.exists()


def test_a_received_model_runs_the_file_beside_it_when_the_user_says_so(received: Path, mark: Path) -> None:
    model, _ = export_run(received, "safetensors", trust_code=True)
    assert load_exported(model)(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    (model.parent / "model.py").write_text(CODE.format(mark=str(mark)) + "# changed on its way\n")
    mark.unlink()
    with pytest.raises(FedShieldError, match=r"export/model\.py: this code has not run here before"):
        load_exported(model)
    assert not mark.exists()
    load_exported(model, trust_code=True)
    assert mark.exists()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model without any code."""
    return export_run(run(tmp_path_factory.mktemp("plain"), "run", federation__rounds=1), "safetensors")[0]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("classes", {"a": 1}),
        ("classes", [1, 2]),
        ("classes", []),
        ("image-size", 10**9),
        ("width", 10**9),
        ("width", "8"),
        ("name", ["cnn"]),
        ("activation", {}),
        ("depth", 3),
    ],
)
def test_a_model_with_metadata_of_another_shape_is_one_line(
    plain: Path, tmp_path: Path, part: str, value: object
) -> None:
    with safe_open(plain, "pt") as file:
        told = json.loads(file.metadata()[ARCHITECTURE])
    (told if part in told else told["network"])[part] = value
    save_file(load_file(plain), tmp_path / "model.safetensors", {ARCHITECTURE: json.dumps(told)})
    with pytest.raises(FedShieldError, match=r"damaged, or not written by fedshield export"):
        load_exported(tmp_path / "model.safetensors")


def test_what_is_known_is_the_users_own_and_no_folder_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "it.py"
    file.write_text("x = 1\n")
    elsewhere(tmp_path / "state", monkeypatch)
    trust(file.read_bytes(), file)
    assert is_trusted(b"x = 1\n")
    assert not is_trusted(b"x = 2\n")
    assert (tmp_path / "state" / "fedshield" / "code").stat().st_mode & 0o077 == 0
    require_trust(file, tmp_path, False)
    # A folder below the working directory may have come with the run.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert not is_trusted(b"x = 1\n")
    logging.getLogger("fedshield").propagate = True
    trust(b"x = 2\n", file)
    assert "it.py: cannot be recorded as your code (there is no home folder); commands will ask for" in caplog.text
    if os.getuid():
        monkeypatch.setenv("XDG_STATE_HOME", "/")
        trust(b"x = 2\n", file)
        assert "Permission denied" in caplog.text
