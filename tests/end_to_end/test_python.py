"""Runs and evaluations from Python: the same figures as the command line's, and nothing changed in the process."""

import json
import logging
import os
import random
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedshield
from common.data.datasets import load_data
from fedshield.guest import at_work
from fedshield.settings import to_scalar
from server.measures import subset_of
from server.run_directory.reader import FEDERATION, read_kind
from tests.helpers.cells import run_cell
from tests.helpers.images import make_folder
from tests.helpers.pages import own_file
from tests.helpers.program import invoke, tiny_options
from tests.helpers.runs import figures, same, weights
from tests.helpers.settings import TINY, Threshold

CELL = own_file("own.py")
KEYS: dict[str, Any] = {**TINY}
LINEAR = nn.Linear(3, 2)


def state() -> list[Any]:
    """What a caller would notice if it were changed."""
    log, flower = (logging.getLogger(name) for name in ("fedshield", "flwr"))
    cudnn = torch.backends.cudnn
    variables = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return [
        *(torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_rng_state().tolist()),
        *(cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark),
        *(random.getstate(), np.random.get_state()[1].tolist(), variables, os.getcwd()),  # noqa: NPY002
        *([*log.handlers], [*log.filters], log.level, log.propagate, flower.level, [*flower.filters]),
        *(signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.stdout, threading.active_count()),
    ]


@pytest.fixture
def unchanged() -> Iterator[None]:
    """Call with settings of the caller's own, and find them afterwards."""
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    before = state()
    yield
    after = state()
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    assert after == before


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> fedshield.Run:
    folder = tmp_path_factory.mktemp("first")
    return fedshield.run(results=folder, name="first", engine="inprocess", **KEYS)


def test_a_run_is_the_command_lines(first: fedshield.Run, tmp_path: Path) -> None:
    done = invoke("run", "--engine", "inprocess", "--results", tmp_path, "--name", "typed", *tiny_options())
    assert done.returncode == 0, done.stderr
    assert figures(first.path) == figures(tmp_path / "typed")
    assert same(weights(first.path), weights(tmp_path / "typed"))
    assert {**first.config, "results.dir": "", "results.name": ""} == {
        **fedshield.load(tmp_path / "typed").config,
        "results.dir": "",
        "results.name": "",
    }


def test_what_a_run_leaves_is_at_hand(first: fedshield.Run) -> None:
    lines = [json.loads(line) for line in (first.path / "metrics.jsonl").read_text().splitlines()]
    metrics = first.metrics
    assert metrics.index.name == "round"
    assert [*metrics.index] == [1, 2]
    assert [*metrics["natural"]] == [line["evaluation"]["natural"]["value"] for line in lines]
    assert [*metrics["robust"]] == [line["evaluation"]["worst"]["value"] for line in lines]
    assert [*metrics["pgd-2-low"]] == [line["evaluation"]["robust"]["pgd-2"]["interval"][0] for line in lines]
    assert [*metrics["loss"]] == [line["loss"] for line in lines]
    assert first.summary["rounds"] == 2
    assert first.finished
    assert first.config["federation.rounds"] == 2
    assert first.report() == first.path / "report.html"
    shown = first._repr_html_()
    assert shown.count("<img ") == 2
    assert "2 rounds" in shown
    table = fedshield.runs(first.path.parent)
    assert table.loc["first", "rounds"] == 2
    assert table.loc["first", "robust"] == first.summary["final"]["worst"]["value"]
    assert repr(fedshield.load(first.path)) == repr(first)
    taken = re.escape(f"choose another name, read it with fedshield.load({str(first.path)!r}), or continue it with ")
    with pytest.raises(fedshield.Error, match=taken + r"fedshield\.run\(resume="):
        fedshield.run(results=first.path.parent, name="first")


def test_the_model_and_its_figures_are_those_of_the_run(first: fedshield.Run) -> None:
    """By the run's own evaluation, ``fedshield evaluate``, ``run.evaluate`` and ``fedshield.evaluate``."""
    model = first.model
    assert not model.training
    final = first.summary["final"]
    test = subset_of(load_data("shapes10", "data", 32).test, 40)
    modes = [module.training for module in model.modules()]
    found = fedshield.evaluate(model, torch.from_numpy(test.images) / 255, test.labels, "pgd-3", quiet=True)
    assert [module.training for module in model.modules()] == modes
    again = first.evaluate("pgd-3", 40, quiet=True)
    done = invoke("evaluate", first.path, "--attacks", "pgd-3", "--examples", "40")
    assert done.returncode == 0, done.stderr
    typed = json.loads((first.path / "evaluations.jsonl").read_text().splitlines()[-1])
    for each in (found, again):
        assert each.natural_accuracy == final["natural"]["value"] == typed["natural"]["value"]
        assert each.robust_accuracy == final["worst"]["value"] == typed["worst"]["value"]
        assert each.interval == tuple(typed["worst"]["interval"])
        assert each.warnings == tuple(typed["warnings"])
        assert [*each.table.index] == ["natural", "pgd-3", "all attacks"]
    assert np.array_equal(found.evaluation.predictions["pgd-3"], again.evaluation.predictions["pgd-3"])


@pytest.mark.usefixtures("unchanged")
def test_any_network_is_measured_with_attacks_that_are_functions() -> None:
    """Of a network with a known robust radius, by an attack of the caller's own."""
    images = np.full((20, 3, 16, 16), 128, np.uint8)
    images[:, 0, 0, 0] = 128 + np.arange(20)  # distances to the threshold, in 1/255
    names = run_cell(
        "def darker(model, threat, classes):\n    return lambda images, labels: (images - threat.epsilon).clamp(0, 1)\n"
    )
    found = fedshield.evaluate(Threshold(), images, np.ones(20, int), ["fgsm", names["darker"]], 4.5, quiet=True)
    assert found.natural_accuracy == 0.95
    assert found.robust_accuracy == 15 / 20
    assert [*found.table["correct"]] == [19, 15, 15, 15]
    lines = repr(found).splitlines()
    assert lines[0].endswith("epsilon 4.5/255 (Linf)")
    assert lines[1].split() == ["natural", "95.0", "%", "[76.4,", "99.1]"]
    for given, doubt in (
        ({"epsilon_255": 8 / 255}, "/255 (Linf); did you mean 8, for 8/255"),
        ({"norm": "l2"}, "epsilon_255 = 8: in L2 the whole image moves by"),
    ):
        small = fedshield.evaluate(Threshold(), images, np.ones(20, int), "fgsm", quiet=True, **given)  # type: ignore[arg-type]
        assert doubt in small.warnings[0]


def test_objects_of_a_notebook_train_as_their_file_does(tmp_path: Path) -> None:
    names = run_cell(CELL)
    (tmp_path / "own.py").write_text(CELL)
    objects = {"model": names["network"], "loss": names["logit_pairing"], "attack": names["momentum"]}
    files = {key: f"{tmp_path}/own.py:{value.__name__}" for key, value in objects.items()}
    runs = [
        fedshield.run(results=tmp_path, name=name, engine="inprocess", quiet=True, **given, **KEYS)
        for name, given in (("objects", objects), ("files", files))
    ]
    assert figures(runs[0].path) == figures(runs[1].path)
    assert same(weights(runs[0].path), weights(runs[1].path))
    assert "def network" in (runs[0].path / "own" / "model.py").read_text()
    done = invoke("export", runs[0].path, "--out", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    exported = fedshield.load_exported(tmp_path / "model" / "model.safetensors")
    pixels = torch.rand(2, 3, 32, 32, dtype=torch.float32)
    assert torch.equal(exported(pixels), runs[0].model(pixels))


@pytest.mark.usefixtures("unchanged")
def test_processes_train_objects_too_a_network_with_its_weights_and_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = load_data("shapes10", "data", 32).train
    taken = {"data": (data.images[:300], data.labels[:300])}
    with torch.random.fork_rng():
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10).float())
    given = {**taken, "model": network, "clients": 2, "rounds": 1, "quiet": True, "results": tmp_path}
    keys = {**KEYS, "partition.scheme": "iid"}
    del keys["federation.rounds"]
    runs = [fedshield.run(engine=engine, **given, **keys) for engine in ("inprocess", "processes")]
    assert figures(runs[0].path) == figures(runs[1].path)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [Path(str(runs[0].config["data.root"])).name]


@pytest.mark.usefixtures("unchanged")
def test_an_interrupted_run_says_how_to_go_on_and_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["flower_shop.py"])  # not one of Flower's programs
    names = run_cell(
        "import os\n"
        f"FLAG = {str(tmp_path / 'stopped')!r}\n"
        "def choose(candidates, rng):\n"
        "    if candidates.server_round == 2 and not os.path.exists(FLAG):\n"
        "        open(FLAG, 'w').close()\n"
        "        raise KeyboardInterrupt\n"
        "    return rng.permutation(len(candidates.images))[: candidates.size]\n"
    )
    given = {"selection": names["choose"], "engine": "inprocess", "results": tmp_path}
    keys = {**KEYS, "federation.fraction": 0.5}
    with pytest.raises(KeyboardInterrupt):
        fedshield.run(name="part", quiet=True, **given, **keys)
    told = "".join(capsys.readouterr())
    assert "Stopped after round 1; continue with: fedshield run --resume" in told
    assert f"In Python: fedshield.run(resume={str(tmp_path / 'part')!r})" in told
    assert "\x1b" not in told
    assert not fedshield.load(tmp_path / "part").finished
    resumed = fedshield.run(resume=tmp_path / "part", engine="inprocess")
    assert read_kind(resumed.path) == FEDERATION
    whole = fedshield.run(name="whole", **given, **keys)
    assert figures(resumed.path) == figures(whole.path)


def test_centralized_training_is_the_command_lines(tmp_path: Path) -> None:
    keys = {**KEYS, "centralized.epochs": 1}
    run = fedshield.centralized(name="python", results=tmp_path, quiet=True, epochs=1, **KEYS)
    options = tiny_options(**{"centralized.epochs": keys["centralized.epochs"]})
    done = invoke("centralized", "--results", tmp_path, "--name", "typed", *options)
    assert done.returncode == 0, done.stderr
    assert figures(run.path) == figures(tmp_path / "typed")
    assert run.metrics.index.name == "epoch"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"engin": "ray"}, "unknown argument or key engin; did you mean engine?"),
        ({"round": 3}, "unknown argument or key round; did you mean rounds?"),
        ({"attack.epsilon": 8}, "unknown argument or key attack.epsilon; did you mean attack.epsilon-255"),
        ({"engine": "threads"}, "engine = 'threads': unknown; allowed: inprocess, processes, ray"),
        ({"workers": 0}, "workers = 0: give a whole number of 1 or more"),
        ({"rounds": 0}, "federation.rounds = 0: "),
        ({"model": "cnn3"}, "model.name = 'cnn3': unknown; allowed: cnn, cnn2"),
        ({"model": "cnn", "model.name": "cnn"}, "model and model.name are the same; give one of them"),
        ({"name": ""}, "results.name = '': is empty"),
        ({"preset": "cpu-cifar"}, "did you mean cpu-cifar10"),
        ({"data": "cifar10", "test": ([], [])}, "test: data is a name or a folder"),
        ({"data": "cifar10", "data.name": "svhn"}, "data and data.name are given; give one of them"),
        ({"data": ([], []), "data.image-size": 64}, "data and data.image-size are given; give one of them"),
        ({"test": ([], [])}, "test: is given without data"),
        ({"preset": {"seed": 2}}, "the keys of a mapping are given as **settings"),
        ({"preset": Threshold}, "preset: type; give a preset's name or a TOML file; objects are"),
        ({"data": "pets"}, "data = 'pets': neither a dataset (shapes10, "),
        (
            {"loss": nn.CrossEntropyLoss()},
            "loss.name: CrossEntropyLoss is a network, or a part of one; give",
        ),
        ({"epochs": 3}, "epochs: is of fedshield.centralized; a federation has rounds"),
    ],
)
def test_a_mistake_is_an_exception_with_one_line(given: dict[str, Any], told: str) -> None:
    with pytest.raises(fedshield.Error) as error:
        fedshield.run(**given)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_step_in_another_unit_is_doubted() -> None:
    found = fedshield.evaluate(*network_and_images(), attacks="pgd-20", epsilon_255=16, step_255=2 / 255, quiet=True)
    assert found.warnings[0].endswith("so 20 steps move a pixel by 0.157/255, of 16/255; did you mean 2?")


def test_the_default_device_of_a_notebook_stays_and_is_not_used() -> None:
    given = network_and_images()
    torch.set_default_device("meta")
    try:
        found = fedshield.evaluate(*given, attacks="fgsm", quiet=True)
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)
    assert found.evaluation.natural.value == 0.75


def network_and_images() -> tuple[nn.Module, Any, Any]:
    return Threshold(), np.full((4, 3, 16, 16), 200, np.uint8), [1, 1, 0, 1]


def test_images_that_have_changed_are_read_again_in_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("one", "two"):
        make_folder(tmp_path / place / "pets")
    losses = []
    for place, gone in (("one", False), ("one", True), ("two", False)):
        monkeypatch.chdir(tmp_path / place)
        if gone:
            next((tmp_path / place / "pets" / "train" / "dog").iterdir()).unlink()
        run = fedshield.centralized(
            data="pets", epochs=1, quiet=True, **{**KEYS, "data.image-size": 16, "evaluate.final-attacks": ""}
        )
        described = json.loads((run.path / "partition.json").read_text())
        losses.append((described["available"], run.metrics["loss"].iloc[0]))
    assert losses[0][0] == losses[1][0] + 1 == losses[2][0]
    assert losses[0][1] != losses[1][1]


def test_what_a_centralized_training_lacks_is_named() -> None:
    for given in ("engine", "clients", "rounds", "workers"):
        arguments: dict[str, Any] = {given: 1}
        with pytest.raises(fedshield.Error, match=f"{given}: is of fedshield.run; a centralized training has no"):
            fedshield.centralized(**arguments)


@pytest.mark.usefixtures("unchanged")
def test_a_mistake_of_an_evaluation_is_one_line_too() -> None:
    images, labels = np.zeros((2, 3, 16, 16), np.uint8), [0, 1]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"attacks": "pdg-20"}, "attacks pdg-20: unknown attack 'pdg-20'"),
        ({"labels": [0, 2]}, "labels: 2 is among them, but the model has 2 classes"),
        ({"attacks": 5}, "attacks = 5: give labels, as in 'fgsm,pgd-20x5', or a list of them"),
        ({"epsilon_255": 300}, "epsilon_255 = 300"),
        ({"epsilon_255": "8"}, "epsilon_255 = '8', step_255 = "),
        ({"epsilon_255": True}, "epsilon_255 = True, step_255 = "),
        ({"seed": True}, "seed = True: give a whole number of 0 or more"),
        ({"step_255": float("inf")}, "epsilon_255 = 8, step_255 = inf: give numbers"),
        ({"norm": "l1"}, "norm = 'l1': unknown; allowed: linf, l2"),
        ({"model": nn.Flatten()}, "model: Flatten; give a torch.nn.Module with weights"),
        ({"model": LINEAR}, "model: does not take images of 16×16 pixels"),
        ({"quiet": "yes"}, "quiet = 'yes': give True or False"),
        ({"norm": "l2", "epsilon_255": 127.5, "attacks": "pgd-20"}, "step_255 = 2: in L2, 20 steps of this length do"),
        ({"epsilon": 8 / 255}, "evaluate: unknown argument epsilon; did you mean epsilon_255"),
        ({"attacks": "autoattack"}, "the targeted DLR loss needs 4 classes"),
    ]
    for change, told in wrong:
        with pytest.raises(fedshield.Error, match=told.replace("(", r"\(")):
            fedshield.evaluate(**{"model": Threshold(), "images": images, "labels": labels, "quiet": True, **change})


class Returns(Threshold):
    """Returns something else than logits, or raises."""

    def __init__(self, change: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, pixels: torch.Tensor) -> Any:
        return self.change(super().forward(pixels))


def raises(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda logits: logits[:, :, None, None],
            "model: returns shape (2, 2, 1, 1) for 2 images; return logits (2, c",
        ),
        (lambda logits: logits[:1], "model: returns shape (1, 2) for 2 images"),
        (lambda logits: logits[:, :1], "model: returns 1 logit for each image; return one for each class, 2 or more"),
        (lambda logits: logits.long(), "model: returns torch.int64; return logits that are floats"),
        (lambda logits: (logits, logits), "model: returns tuple; return one tensor"),
        (lambda logits: logits / 0, "model: for 2 of 2 images its logits are not finite (NaN or infinite)"),
        (lambda logits: raises(KeyError("x")), "KeyError: 'x')"),
        (lambda logits: raises(AssertionError("no")), f"{__file__}, line "),
        (lambda logits: raises(Exception("no\nmore")), "Exception: no)"),
        (lambda logits: raises(SystemExit(1)), "sys.exit(1) would end the whole run"),
        (lambda logits: raises(OSError("broken")), "OSError: broken)"),
        (lambda logits: raises(MemoryError("full")), "batch_size: too many images at a time for the memory"),
    ],
)
def test_what_is_no_classifier_is_one_line(change: Callable[[torch.Tensor], Any], told: str) -> None:
    images = np.zeros((2, 3, 16, 16), np.uint8)
    with pytest.raises(fedshield.Error) as error:
        fedshield.evaluate(Returns(change), images, [0, 1], "fgsm", quiet=True)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(("model: ", "batch_size: "))


def test_a_network_without_values_or_that_fails_later_is_one_line() -> None:
    images, labels = np.zeros((70, 3, 16, 16), np.uint8), np.arange(70) % 2
    images[6, 0, 0, 0] = 255  # not among the 64 images that are shown first
    with pytest.raises(fedshield.Error, match="model: Threshold is on the meta device, without values"):
        fedshield.evaluate(Threshold().to("meta"), images, labels, quiet=True)
    dark = Returns(lambda logits: logits if (logits[:, 0] > 0).all() else raises(KeyError("bright")))
    with pytest.raises(fedshield.Error, match=r"model: cannot be measured \(.*KeyError: 'bright'"):
        fedshield.evaluate(dark, images, labels, "fgsm", quiet=True)
    odd = Returns(lambda logits: logits.where(logits[:, 1:] < 0, torch.nan))
    found = fedshield.evaluate(odd, images, labels, "fgsm", 0, quiet=True)
    assert found.evaluation.not_finite == 1
    assert found.warnings[0].startswith("1 answers of the model have logits that are not finite (NaN or infinite)")


def test_a_wrong_type_names_its_argument(first: fedshield.Run, tmp_path: Path) -> None:
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: fedshield.load(3), "path = 3: int; give a path"),  # type: ignore[arg-type]
        (lambda: fedshield.load(None), "path = None: NoneType; give a path"),  # type: ignore[arg-type]
        (lambda: fedshield.load(first.path, trust_code="no"), "trust_code = 'no': give True"),  # type: ignore[arg-type]
        (lambda: fedshield.load("a\0b"), r"path = 'a\x00b': has a NUL character"),
        (lambda: fedshield.runs(3), "folder = 3: int; give a path"),  # type: ignore[arg-type]
        (lambda: fedshield.run(resume=3), "resume = 3: int; give a path"),  # type: ignore[arg-type]
        (lambda: fedshield.run(trust_code="no"), "trust_code = 'no': give True or False"),  # type: ignore[arg-type]
        (lambda: fedshield.run(results="a\0b"), r"results.dir = 'a\x00b': has a NUL character"),
        (lambda: fedshield.run(preset="a\0b"), r"preset = 'a\x00b': has a NUL character"),
        (lambda: fedshield.load_exported(3), "path = 3: int; give a path"),  # type: ignore[arg-type]
        (lambda: fedshield.load_exported(tmp_path), f"{tmp_path}: is a folder; give the file in it"),
        (lambda: fedshield.load_exported(tmp_path, 1), "trust_code = 1: give True or False"),  # type: ignore[arg-type]
        (lambda: first.report(3), "out = 3: int; give a path"),  # type: ignore[arg-type]
        (lambda: first.evaluate(epsilons=None), "epsilons = None: give radii"),  # type: ignore[arg-type]
        (lambda: first.evaluate(corruptions=None), "corruptions = None: give names"),  # type: ignore[arg-type]
        (lambda: first.evaluate(corruptions=[3]), "corruptions: 3 is among them"),  # type: ignore[list-item]
        (lambda: first.evaluate(made_on=3), "made_on = 3: give a run, its directory"),  # type: ignore[arg-type]
        (lambda: first.evaluate(made_on=[3]), "made_on = 3: int; give a path"),  # type: ignore[list-item]
        (lambda: first.evaluate(personal="no"), "personal = 'no': give True or False"),  # type: ignore[arg-type]
    ]
    for call, told in wrong:
        with pytest.raises(fedshield.Error) as error:
            call()
        assert told in str(error.value)
        assert "\n" not in str(error.value)


def test_a_run_whose_directory_is_gone_says_so(first: fedshield.Run, tmp_path: Path) -> None:
    run = fedshield.load(shutil.copytree(first.path, tmp_path / "gone"))
    shutil.rmtree(run.path)
    assert repr(run) == f"Run {run.path}: its directory is gone"
    assert "its directory is gone" in run._repr_html_()
    for name in ("metrics", "summary", "finished", "config", "model", "test", "classes", "report", "evaluate"):
        with pytest.raises(fedshield.Error, match=f"Run {run.path}: its directory is gone; if it was moved"):
            getattr(run, name)()


def test_what_cannot_be_measured_is_one_line(first: fedshield.Run) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"model.width": 3}, "model.width: the run stays as it was trained; what can be set here: data.root"),
        ({"example": 3}, "unknown argument or key example; did you mean examples?"),
        ({"epsilons": [-1]}, "--epsilons -1: write numbers from 0 to 255"),
        ({"epsilons": -1}, "--epsilons -1: write numbers from 0 to 255"),
        ({"made_on": "nowhere"}, "nowhere/config.json: not found"),
        ({"attacks": "pdg"}, "attacks pdg: unknown attack"),
        ({"corruptions": "fogg"}, "fogg is not known"),
    ]
    for given, told in wrong:
        with pytest.raises(fedshield.Error, match=told):
            first.evaluate(**given)
    for several in (np.array([2, 4]), torch.tensor([2, 4]), [2, 4]):
        assert to_scalar("train.milestones", several) == "2,4"
    with pytest.raises(fedshield.Error, match=r"model.weights: OrderedDict; give a text.*save_file") as error:
        to_scalar("model.weights", LINEAR.state_dict())
    assert "\n" not in str(error.value)
    assert to_scalar("model.weights", first) == str(first.path)  # a run can be given where its directory can
    with pytest.raises(fedshield.Error, match="not found; is this a run directory"):
        fedshield.load("nowhere")
    with pytest.raises(fedshield.Error, match="no such folder"):
        fedshield.runs("nowhere")


def test_one_call_works_at_a_time() -> None:
    with at_work(), pytest.raises(fedshield.Error, match="is at work in this process"):
        fedshield.centralized()


def test_importing_it_is_quick_and_names_are_complete() -> None:
    import fedshield.own
    import fedshield.public

    assert {*fedshield.__all__} == {"__version__", *fedshield.own.__all__, *fedshield.public.__all__}
    for name in fedshield.__all__:
        assert getattr(fedshield, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        fedshield.runn  # type: ignore[attr-defined]  # noqa: B018
