"""What a user brings along: networks, training methods and attacks from a Python file, and torchvision's networks."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.attacks.library import build_attack
from common.attacks.threat import Threat
from common.config.schema import parse_config
from common.errors import FedShieldError
from common.evaluation.evaluate import evaluate
from common.evaluation.store import ArrayStore
from common.exported import load_exported
from common.factory import make_model
from common.messages.records import to_record, to_state
from common.models.networks import build_model, load_state
from common.training.losses import LossContext, build_loss
from common.user_code import load_user_code
from server.evaluation import evaluate_run
from server.run_directory.reader import read_metrics
from server.trial import try_own_loss
from tests.helpers.images import make_folder
from tests.helpers.pages import commands, own_file, type_in
from tests.helpers.runs import figures, run, same, weights
from tests.helpers.settings import Threshold, tiny_config, tiny_flat

THREAT = Threat(8 / 255, 2 / 255, 3)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the documentation, in the working directory."""
    (tmp_path / "own.py").write_text(own_file("own.py"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "own.py"


def write(folder: Path, code: str) -> str:
    (folder / "mine.py").write_text(code)
    return f"{folder / 'mine.py'}:it"


def test_the_documented_file_trains_attacks_and_is_exported(own: Path) -> None:
    names = {"model__name": "own.py:network", "loss__name": "own.py:logit_pairing", "attack__name": "own.py:momentum"}
    path = run(own.parent, "own", **names, evaluate__final_attacks="pgd-3,own.py:momentum-3x2")
    assert [line["round"] for line in read_metrics(path)] == [1, 2]
    final = json.loads((path / "summary.json").read_text())["final"]
    assert list(final["robust"]) == ["pgd-3", "own.py:momentum-3x2"]
    assert (path / "own" / "model.py").read_bytes() == own.read_bytes()
    # The run's own copy of the network is what it is measured with, wherever the file is now.
    attack = own.rename(own.with_name("elsewhere.py"))
    again = evaluate_run(path, {"evaluate.final-attacks": f"pgd-3,{attack}:momentum-3x2"})
    assert again.record["natural"] == final["natural"]
    assert again.record["robust"]["pgd-3"] == final["robust"]["pgd-3"]
    done = type_in(["fedshield", "export", str(path), "--out", "model"], own.parent)
    assert done.returncode == 0, done.stderr
    exported, images = load_exported(own.with_name("model") / "model.safetensors"), torch.rand(3, 3, 32, 32)
    model = make_model(tiny_config(model__name=f"{attack}:network"), 10).eval()
    model.load_state_dict(weights(path))
    assert torch.equal(exported(images), model(images))


FILE, IMAGES, CLASSIFIER = (
    "A network, a training method or an attack of your own",
    "Images",
    "A torchvision network",
)


def documented(folder: Path, section: str) -> str:
    """Run the documented commands of a section, with a shorter training; return their output."""
    short = tiny_flat(federation__rounds=1)
    changes = [f"--set={key}={json.dumps(short[key])}" for key in short if key in SHORT]
    told = ""
    for command in commands("own.md", section):
        done = type_in([*command, *(changes if command[1] == "run" else [])], folder)
        assert done.returncode == 0, (command, done.stderr)
        told += done.stdout
    return told


@pytest.mark.parametrize(
    ("section", "named"), [(FILE, ["run", "evaluate", "run", "export"]), (IMAGES, ["run"]), (CLASSIFIER, ["run"])]
)
def test_the_sections_have_the_commands_that_the_next_two_tests_run(section: str, named: list[str]) -> None:
    """These two are slow, so that a change of the page would not be noticed."""
    assert [command[1] for command in commands("own.md", section)] == named


@pytest.mark.slow
def test_the_documented_commands_work(own: Path) -> None:
    assert "own.py:momentum-20x2" in documented(own.parent, FILE)
    assert load_exported(own.with_name("model") / "model.safetensors")(torch.rand(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.slow
def test_the_documented_folder_and_network_of_torchvisions_work(own: Path) -> None:
    make_folder(own.with_name("pets"), size=40, suffix="jpg", images=60)
    documented(own.parent, IMAGES)
    (pets,) = (own.parent / "runs").glob("*/partition.json")
    assert json.loads(pets.read_text())["classes"] == ["cat", "dog"]
    documented(own.parent, CLASSIFIER)
    assert any("branch2" in name for name in weights(own.parent / "runs" / "shuffle"))  # a ShuffleNet's


SHORT = ("threads", "data.max-examples", "federation.rounds", "evaluate.examples", "evaluate.final-examples")


def test_a_run_goes_on_with_the_code_it_began_with_and_with_no_other(own: Path) -> None:
    whole = run(own.parent, "whole", model__name="own.py:network", federation__rounds=2)
    run(own.parent, "part", model__name="own.py:network", federation__rounds=1)
    again = {"model__name": "own.py:network", "federation__rounds": 2, "results__resume": str(own.parent / "part")}
    code = own.read_text()
    own.write_text(code + "\n# changed\n")
    kept = own.parent / "part" / "own" / "model.py"
    with pytest.raises(
        FedShieldError, match=f"own.py:network: has changed since the run started; use the run's copy, .*{kept}, or"
    ):
        run(own.parent, "part", **again)
    own.write_text(code)
    resumed = run(own.parent, "part", **again)
    assert same(weights(resumed), weights(whole))
    assert figures(resumed) == figures(whole)


@pytest.mark.slow
def test_ray_workers_find_the_file(own: Path) -> None:
    settings = ["model.name=own.py:network", "loss.name=own.py:logit_pairing"]
    tiny = [f"{key}={json.dumps(value)}" for key, value in tiny_flat().items() if not key.startswith(("results", *OWN))]
    for engine in ("inprocess", "ray"):
        command = ["fedshield", "run", "--engine", engine, "--name", engine]
        done = type_in([*command, *(f"--set={change}" for change in [*tiny, *settings])], own.parent)
        assert done.returncode == 0, done.stderr
    ray, inprocess = (own.parent / "runs" / engine for engine in ("ray", "inprocess"))
    assert same(weights(ray), weights(inprocess))
    assert figures(ray) == figures(inprocess)


OWN = ("model.name", "loss.name", "attack.name")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def it(:\n", "line 1: SyntaxError: invalid syntax"),
        ("x = 1\ny = x / 0\n", "line 2: ZeroDivisionError: division by zero"),
        # wandb, once another test has imported it, gives every sys.exit() a number.
        ("import sys\nsys.exit()\n", r"line 2: SystemExit: sys.exit\(0?\) would end the whole run; raise"),
        ("def it(classes):\n    exit(3)\n", r"line 2: SystemExit: sys.exit\(3\) would end"),
        ("import no_such_package\n", "line 1: ModuleNotFoundError: No module named 'no_such_package'"),
        ("def that(): ...\n", "has no function it; it has that"),
        ("it = 3\n", "has no function it; it has none"),
        ("def it(classes):\n    return classes.x\n", "line 2: AttributeError: 'int' object has no attribute 'x'"),
        ("def it(classes):\n    return classes\n", "must return a torch.nn.Module, not int"),
        ("def it(size):\n    return size\n", r"TypeError: it\(\) missing 1 required positional argument: 'size'"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_its_place(tmp_path: Path, code: str, told: str) -> None:
    reference = write(tmp_path, code)
    with pytest.raises(FedShieldError, match=f"model.name = {reference}: .*{told}") as caught:
        build_model(reference, 10, 8, "relu", True, 1)
    assert "\n" not in str(caught.value)


def test_a_file_that_exits_ends_the_command_with_a_line_and_ctrl_c_stays_ctrl_c(tmp_path: Path) -> None:
    reference = write(tmp_path, "raise SystemExit(0)")
    done = type_in(["fedshield", "run", "--set", f"model.name={reference}"], tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "mine.py, line 1: SystemExit" in done.stderr
    write(tmp_path, "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_user_code("key", reference)


def test_a_network_that_does_not_fit_the_images_is_told_before_training(tmp_path: Path) -> None:
    flat = "from torch import nn\ndef it(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear({}, {}))\n"
    reference = write(tmp_path, flat.format(100, "classes"))
    with pytest.raises(FedShieldError, match=r"model.name = .*: RuntimeError: .*mat1 and mat2 shapes cannot be"):
        build_model(reference, 10, 8, "relu", True, 1)
    reference = write(tmp_path, flat.format(3072, 7))
    with pytest.raises(FedShieldError, match=r"returns \(2, 7\) for 2 images; logits must be \(2, 10\)"):
        build_model(reference, 10, 8, "relu", True, 1)
    reference = write(tmp_path, "from torch import nn\ndef it():\n    return nn.Flatten()\n")
    with pytest.raises(FedShieldError, match=r"returns \(2, 3072\) for 2 images"):
        build_model(reference, 10, 8, "relu", True, 1)
    with pytest.raises(FedShieldError, match=r"loss.name = none.py:it: no file .*none.py; write FILE.py:NAME"):
        run(tmp_path, "run", loss__name="none.py:it")
    assert list(tmp_path.glob("run/*")) == []


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    reference = write(tmp_path, "def it():\n    return 1\n")
    first = load_user_code("key", reference)
    assert load_user_code("key", reference) is first
    write(tmp_path, "def it():\n    return 2\n")
    assert (first(), load_user_code("key", reference)()) == (1, 2)


PUSH = "def it(model, threat, classes):\n    return lambda images, labels: images + {} * threat.epsilon\n"


def test_an_attack_that_leaves_the_ball_is_refused(tmp_path: Path) -> None:
    images, labels = torch.full((2, 3, 32, 32), 0.5), torch.tensor([0, 1])
    build = lambda: build_attack(reference, Threshold(), THREAT, 2)  # noqa: E731
    reference = write(tmp_path, PUSH.format(1))
    assert torch.equal(build()(images, labels), images + THREAT.epsilon)
    reference = write(tmp_path, PUSH.format(1.5))
    with pytest.raises(
        FedShieldError, match=r"a pixel moves by 12/255 and lies 0/255 outside \[0, 1\]; epsilon is 8/255"
    ):
        build()(images, labels)
    reference = write(tmp_path, PUSH.format(1))
    with pytest.raises(FedShieldError, match=r"a pixel moves by 8/255 and lies 8/255 outside"):
        build()(images + 0.5, labels)
    reference = write(tmp_path, PUSH.format("float('nan')"))
    with pytest.raises(FedShieldError, match="a pixel moves by nan/255"):
        build()(images, labels)


def test_an_attack_finds_the_model_in_eval_mode_with_its_weights_held_still(tmp_path: Path) -> None:
    code = """
def it(model, threat, classes):
    def attack(images, labels):
        assert not model.training
        images.requires_grad_()
        model(images).sum().backward()
        return (images + threat.epsilon * images.grad.sign()).clamp(0, 1)
    return attack
"""
    model = build_model("cnn", 10, 2, "relu", True, 1).train()
    build_attack(write(tmp_path, code), model, THREAT)(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert model.training


def test_an_attack_is_told_how_many_classes_the_training_data_has(tmp_path: Path) -> None:
    reference = write(tmp_path, "def it(model, threat, classes):\n    return lambda images, labels: images + classes\n")
    context = LossContext(reference, Threat(9, 1, 1), 0, 0, class_counts=(4, 0, 2))
    with pytest.raises(FedShieldError, match=r"moves by 765/255"):
        context.build_attack(Threshold())(torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]))


def test_an_own_attack_is_measured_as_the_same_one_of_ours_is(tmp_path: Path) -> None:
    code = "import torchattacks\ndef it(model, threat, classes):\n    return torchattacks.FGSM(model, threat.epsilon)\n"
    reference = write(tmp_path, code)
    images = np.full((4, 3, 32, 32), 128, np.uint8)
    images[:, 0, 0, 0] = (120, 126, 130, 150)
    labels = np.array([0, 0, 1, 1])
    kept = ArrayStore(tmp_path / "kept")
    found = evaluate(Threshold(), images, labels, ("fgsm", reference), Threat(8 / 255, 2 / 255, 0), 1, kept=kept)
    assert found.robust[reference] == found.robust["fgsm"]
    assert found.robust["fgsm"].value == 0.5  # 126 and 130 are within 8 of 128
    # Another content under the same name is another attack.
    write(tmp_path, PUSH.format(0))
    again = evaluate(Threshold(), images, labels, (reference,), Threat(8 / 255, 2 / 255, 0), 1, kept=kept)
    assert again.robust[reference].value == 1


@pytest.mark.parametrize("returned", ["3.0", "model(images)", "model(images).detach().sum()"])
def test_a_training_method_must_return_a_loss(tmp_path: Path, returned: str) -> None:
    code = f"def it(model, context):\n    return lambda images, labels: {returned}\n"
    loss = build_loss(write(tmp_path, code), Threshold(), LossContext("none", THREAT, 0, 0))
    with pytest.raises(FedShieldError, match="must return the batch's loss, a scalar with a gradient"):
        loss(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))


@pytest.mark.parametrize("key", ["loss.name", "attack.name"])
def test_what_a_loss_or_an_attack_raises_in_training_ends_the_run_with_its_line_once(tmp_path: Path, key: str) -> None:
    # Not with two images: both are tried on so many before the first round.
    small = {"loss.name": "model(images).sum()", "attack.name": "images"}[key]
    line = f"return lambda images, labels: images @ labels if len(images) > 2 else {small}"
    reference = write(tmp_path, f"def it(model, *rest):\n    {line}\n")
    place = re.escape(f"8, 9: {key} = {reference}: {tmp_path / 'mine.py'}, line 2: RuntimeError: ")
    with pytest.raises(FedShieldError, match=place) as caught:
        run(tmp_path, "run", **{key.replace(".", "__"): reference})
    assert str(caught.value).count("mine.py, line 2") == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["run", "centralized"])
def test_a_loss_that_fails_is_named_before_the_first_round(tmp_path: Path, command: str) -> None:
    reference = write(tmp_path, "def it(model, context):\n    return lambda images, labels: images @ labels\n")
    with pytest.raises(FedShieldError, match=f"^loss.name = {reference}: .*, line 2: RuntimeError: "):
        run(tmp_path, command, loss__name=reference)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("model(images).sum() / 0", "is -?inf"),
        ("model(images).sum() * float('nan')", "is nan"),
        ("(model(images).sum() * 0).sqrt()", "has a gradient that is not finite"),
        ("model(images).sum() * 0", "has no gradient with respect to the model's weights"),
        ("images.clone().requires_grad_().sum()", "has no gradient with respect to the model's weights"),
    ],
)
def test_a_loss_that_teaches_nothing_is_refused_before_the_first_round(
    tmp_path: Path, returned: str, told: str
) -> None:
    reference = write(tmp_path, f"def it(model, context):\n    return lambda images, labels: {returned}\n")
    with pytest.raises(FedShieldError, match=f"^loss.name = {reference}: {told}, on 20 random images: nothing can be"):
        run(tmp_path, "run", loss__name=reference)
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("next(model.parameters()).data.add_(1)", "changes the model's weights; it must only return"),
        ("value.backward()", "{file}: RuntimeError: Trying to backward through the graph a second time"),
    ],
)
def test_a_loss_that_trains_by_itself_is_refused_before_the_first_round(tmp_path: Path, line: str, told: str) -> None:
    code = f"    def loss(images, labels):\n        value = model(images).sum()\n        {line}\n        return value\n"
    reference = write(tmp_path, f"def it(model, context):\n{code}    return loss\n")
    with pytest.raises(FedShieldError, match=f"^loss.name = {reference}: {told.format(file=tmp_path / 'mine.py')}"):
        run(tmp_path, "run", loss__name=reference)


def test_a_loss_may_make_its_examples_by_backward(tmp_path: Path) -> None:
    code = """
import torch.nn.functional as F
def it(model, context):
    def loss(images, labels):
        moved = images.clone().requires_grad_()
        F.cross_entropy(model(moved), labels).backward()
        return F.cross_entropy(model((images + moved.grad.sign() / 32).clamp(0, 1)), labels)
    return loss
"""
    config = tiny_config(loss__name=write(tmp_path, code))
    try_own_loss(config, model := make_model(config, 10), 10)
    assert all(weight.grad is None for weight in model.parameters())


def test_a_network_with_an_infinite_buffer_is_refused(tmp_path: Path) -> None:
    code = (
        "import torch\nfrom torch import nn\nclass it(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.register_buffer('shift', torch.tensor(float('-inf')))\n        self.last = nn.Linear(3, 10)\n"
        "    def forward(self, x):\n        return self.last(x.mean((2, 3))) + self.shift\n"
    )
    with pytest.raises(FedShieldError, match=r"in eval mode returns nan or infinity; check its weights and buffers"):
        make_model(tiny_config(model__name=write(tmp_path, code)), 10)


def test_a_loss_that_needs_two_images_of_a_class_is_not_refused(tmp_path: Path) -> None:
    pairs = "(model(images)[labels == labels.mode().values] @ torch.ones(10)).var()"  # nan for a single image
    reference = write(tmp_path, f"import torch\ndef it(model, context):\n    return lambda images, labels: {pairs}\n")
    config = tiny_config(loss__name=reference)
    try_own_loss(config, make_model(config, 10), 10)


@pytest.mark.parametrize("key", ["attack.name", "evaluate.attacks", "evaluate.final-attacks"])
def test_a_file_with_a_mistake_is_named_by_its_key_before_anything_is_trained(tmp_path: Path, key: str) -> None:
    reference = write(tmp_path, "import no_such_package\n")
    with pytest.raises(FedShieldError, match=f"^{key} = {reference}: .*, line 1: ModuleNotFoundError: "):
        run(tmp_path, "run", **{key.replace(".", "__").replace("-", "_"): reference})


def test_what_an_attack_raises_in_an_evaluation_is_one_line(tmp_path: Path) -> None:
    reference = write(tmp_path, "def it(model, *rest):\n    return lambda images, labels: images @ labels\n")
    place = f"^attack of the evaluation = {reference}: .*, line 2: RuntimeError: "
    with pytest.raises(FedShieldError, match=place):
        evaluate(Threshold(), np.full((2, 3, 32, 32), 200, np.uint8), np.array([1, 1]), (reference,), THREAT, 1)


def test_torchvisions_networks_are_there_by_name() -> None:
    model = build_model("torchvision:shufflenet_v2_x0_5", 7, 8, "relu", True, 1)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    again, other = (build_model("torchvision:shufflenet_v2_x0_5", 7, 8, "relu", True, seed) for seed in (1, 2))
    assert same(dict(model.named_parameters()), dict(again.named_parameters()))
    assert not same(dict(model.named_parameters()), dict(other.named_parameters()))
    patches = build_model("torchvision:vit_b_32", 10, 8, "relu", True, 1, image_size=64)
    assert patches(torch.rand(1, 3, 64, 64)).shape == (1, 10)
    assert isinstance(build_model("torchvision:googlenet", 10, 8, "relu", True, 1)(torch.rand(2, 3, 32, 32)), Tensor)


def test_normalization_is_inside_torchvisions_networks() -> None:
    model = build_model("torchvision:squeezenet1_1", 10, 8, "relu", True, 1).eval()
    images = torch.rand(2, 3, 32, 32)
    assert isinstance(model, nn.Sequential)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
    assert torch.allclose(model(images), model[1]((images - mean) / std), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("torchvision:resnet81", "torchvision has no such classifier; did you mean resnet18"),
        ("torchvision:fcn_resnet50", "torchvision has no such classifier"),
        ("torchvision:inception_v3", r"does not accept images of 32×32 \(.*\); use another network, or"),
        ("torchvision:vit_h_14", r"does not accept images of 32×32 \(.*indivisible"),
    ],
)
def test_a_network_that_torchvision_does_not_have_or_that_does_not_fit_is_one_line(name: str, told: str) -> None:
    with pytest.raises(FedShieldError, match=f"model.name = {name}: {told}"):
        build_model(name, 10, 8, "relu", True, 1)


def test_names_are_checked_with_the_configuration() -> None:
    told = (
        "model.name = 'resnet81': unknown; allowed: cnn, cnn2, resnet18, torchvision:NAME, FILE.py:NAME; did you mean"
    )
    with pytest.raises(FedShieldError, match=told):
        parse_config(tiny_flat(model__name="resnet81"))
    with pytest.raises(
        FedShieldError, match=r"loss.name = 'torchvision:x': unknown; allowed: pgd-at, .*, FILE.py:NAME"
    ):
        parse_config(tiny_flat(loss__name="torchvision:x"))
    with pytest.raises(FedShieldError, match=r"model.activation = gelu: model.name = torchvision:resnet50 has its own"):
        parse_config(tiny_flat(model__name="torchvision:resnet50", model__activation="gelu"))
    labels = parse_config(tiny_flat(evaluate__attacks="pgd, own.py:push-20x5 ,a b.py:pull")).evaluate.attacks
    assert labels == ("pgd-10", "own.py:push-20x5", "a b.py:pull")


def test_a_file_beside_the_app_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a client finds it in the app that Flower has sent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.user_code.IMPORTED_FROM", tmp_path / "app")
    (tmp_path / "app").mkdir()
    write(tmp_path / "app", "def it():\n    return 'of the app'\n")
    assert load_user_code("key", "mine.py:it")() == "of the app"
    write(tmp_path, "def it():\n    return 'of the folder'\n")
    assert load_user_code("key", "mine.py:it")() == "of the folder"


# --- what a user's code may change under us


def test_an_attack_that_writes_into_its_images_does_not_escape_the_ball(tmp_path: Path) -> None:
    code = "def it(model, threat, classes):\n    return lambda images, labels: images.add_(0.4).clamp_(0, 1)\n"
    images, labels = torch.full((2, 3, 32, 32), 0.5), torch.tensor([0, 1])
    build = build_attack(write(tmp_path, code), Threshold(), THREAT, 2)
    with pytest.raises(FedShieldError, match=r"a pixel moves by 102/255 .*; epsilon is 8/255"):
        build(images, labels)
    assert images.unique().tolist() == [0.5]
    code = "def it(model, threat, classes):\n    return lambda images, labels: images + 0 * labels.fill_(1).sum()\n"
    build_attack(write(tmp_path, code), Threshold(), THREAT, 2)(images, labels)
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("images[:1]", r"returns \(1, 3, 32, 32\) for images \(2, 3, 32, 32\)"),
        ("images[:, :1]", r"returns \(2, 1, 32, 32\) for images"),
        ("[images]", "returns list for images"),
        ("None", "returns NoneType for images"),
        ("images.to(torch.complex64)", "returns torch.complex64; return float32"),
        ("images.to('meta')", "NotImplementedError: "),
    ],
)
def test_an_attack_must_return_images_of_the_same_shape(tmp_path: Path, returned: str, told: str) -> None:
    code = f"import torch\ndef it(model, threat, classes):\n    return lambda images, labels: {returned}\n"
    with pytest.raises(FedShieldError, match=told):
        build_attack(write(tmp_path, code), Threshold(), THREAT, 2)(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))


def test_an_attack_in_double_precision_gives_images_in_single(tmp_path: Path) -> None:
    reference = write(tmp_path, PUSH.format(1).replace("images +", "images.double() +"))
    found = build_attack(reference, Threshold(), THREAT, 2)(torch.full((2, 3, 32, 32), 0.5), torch.tensor([0, 1]))
    assert found.dtype == torch.float32
    assert torch.allclose(found, torch.tensor(0.5 + 8 / 255))


@pytest.mark.parametrize(
    "change",
    [
        *("next(model.parameters()).data.zero_()", "model.train(); model(images)", "model[1].weight.data *= 2"),
        "model[1].register_full_backward_hook(lambda module, given, taken: (given[0] / 2,))",
        *("model.register_forward_hook(lambda *_: None)", "model.forward = model[0].forward", "model[1] = model[0]"),
    ],
)
def test_an_attack_that_changes_the_model_is_refused(tmp_path: Path, change: str) -> None:
    attack = f"    def attack(images, labels):\n        {change}\n        return images\n"
    code = f"def it(model, *rest):\n{attack}    return attack\n"
    model = build_model("cnn", 10, 2, "relu", True, 1)
    perturb = build_attack(reference := write(tmp_path, code), model, THREAT)
    with pytest.raises(FedShieldError, match=rf"attack.name = {reference}: changes the model \("):
        perturb(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))


def test_an_attack_that_changes_the_model_as_it_is_made_is_refused(tmp_path: Path) -> None:
    code = (
        "def it(model, *rest):\n    model.register_forward_hook(lambda *_: 0)\n    return lambda images, labels: images"
    )
    with pytest.raises(FedShieldError, match=r"changes the model \(a hook, a part or a forward of it\)"):
        build_attack(write(tmp_path, code), build_model("cnn", 10, 2, "relu", True, 1), THREAT)


def test_code_that_switches_gradients_off_does_so_for_itself_alone(tmp_path: Path) -> None:
    images, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    model = build_model("cnn", 10, 2, "relu", True, 1)
    off = "        torch.set_grad_enabled(False)\n"
    attack = f"    def attack(images, labels):\n{off}        return images\n    return attack\n"
    code = f"import torch\ndef it(model, *rest):\n{attack}"
    build_attack(write(tmp_path, code), model, THREAT)(images, labels)
    assert torch.is_grad_enabled()
    loss = f"        value = model(images).sum()\n{off}        return value\n    return loss\n"
    code = f"import torch\ndef it(model, context):\n    def loss(images, labels):\n{loss}"
    build_loss(write(tmp_path, code), model, LossContext("none", THREAT, 0, 0))(images, labels)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("change", ["model.eval()", "model[1].weight.requires_grad_(False)"])
def test_a_loss_that_leaves_the_model_in_another_mode_is_refused(tmp_path: Path, change: str) -> None:
    loss = f"    def loss(images, labels):\n        {change}\n        return model(images).sum()\n"
    code = f"def it(model, context):\n{loss}    return loss\n"
    model = build_model("cnn", 10, 2, "relu", True, 1).train()
    built = build_loss(write(tmp_path, code), model, LossContext("none", THREAT, 0, 0))
    with pytest.raises(FedShieldError, match="changes the mode or requires_grad of a part of the model"):
        built(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))


def test_a_loss_that_trains_a_part_of_the_network_names_the_rest(tmp_path: Path) -> None:
    code = "def it(model, context):\n    return lambda images, labels: model[-1].weight.square().sum()\n"
    with pytest.raises(FedShieldError, match=r"client 0.*: 1.weight: the loss does not depend on this weight"):
        run(tmp_path, "run", loss__name=write(tmp_path, code))


NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
        self.norm = nn.BatchNorm1d(10)
        self.spare = {spare}

    def forward(self, images):
        logits = self.norm(self.body(images))
        return {returned}

def it():
    return Net()
"""


@pytest.mark.parametrize(
    ("spare", "returned", "told"),
    [
        ("nn.Linear(3, 3)", "logits", "forward does not use spare.weight, spare.bias; remove what is not used"),
        (
            "None",
            "(logits, logits) if self.training else logits",
            r"in training mode returns tuple for 2 images; logits",
        ),
        ("None", "logits.detach()", "its logits have no gradient; remove detach and no_grad from forward"),
        ("None", "logits.double()", "in eval mode returns logits of torch.float64; return float32"),
        ("None", "logits.bfloat16()", "in eval mode returns logits of torch.bfloat16; return float32"),
        ("None", "logits + images.mul_(2).sum()", "changes its input images; let it work on a copy"),
        ("None", "logits if not self.training else self.nothing(logits)", "line 14: AttributeError: 'Net' object has"),
    ],
)
def test_a_network_is_tried_in_training_too(tmp_path: Path, spare: str, returned: str, told: str) -> None:
    reference = write(tmp_path, NETWORK.format(spare=spare, returned=returned))
    with pytest.raises(FedShieldError, match=f"model.name = {reference}: .*{told}"):
        build_model(reference, 10, 8, "relu", True, 1)


@pytest.mark.parametrize("kind", ["complex64", "bfloat16"])
def test_weights_that_cannot_be_averaged_are_refused_at_the_start(tmp_path: Path, kind: str) -> None:
    spare = f"nn.Parameter(torch.ones(2, dtype=torch.{kind}))"
    reference = write(tmp_path, NETWORK.format(spare=spare, returned="logits + self.spare.abs().sum().float()"))
    with pytest.raises(FedShieldError, match=f"{reference}: spare is torch.{kind}, which cannot be averaged over the"):
        build_model(reference, 10, 8, "relu", True, 1)


def test_a_trial_leaves_no_trace_in_the_statistics(tmp_path: Path) -> None:
    model = build_model(write(tmp_path, NETWORK.format(spare="None", returned="logits")), 10, 8, "relu", True, 1)
    assert model.training
    assert model.norm.running_mean.tolist() == [0] * 10
    assert model.norm.num_batches_tracked == 0


def test_a_batch_of_one_that_a_network_cannot_take_is_told_before_the_first_round(tmp_path: Path) -> None:
    reference = write(tmp_path, NETWORK.format(spare="None", returned="logits"))
    told = "train.batch-size = 1: model.name = .* needs two or more at 32×32 pixels.*; set train.batch-size=2"
    with pytest.raises(FedShieldError, match=told):
        run(tmp_path, "run", model__name=reference, train__batch_size=1)
    assert not (tmp_path / "run").exists()
    with pytest.raises(FedShieldError, match=told):
        run(tmp_path, "run", model__name="resnet18", model__width=2, model__stem="imagenet", train__batch_size=1)
    # An odd image at the end of an epoch is no reason to end a run.
    run(tmp_path, "odd", model__name=reference, train__batch_size=3, federation__rounds=1)


def test_weights_that_have_travelled_fit_a_network_that_reads_their_version() -> None:
    one, other = (build_model("torchvision:mnasnet0_5", 10, 8, "relu", True, seed) for seed in (1, 2))
    load_state(other, to_state(to_record(one.state_dict())))
    assert same(one.state_dict(), other.state_dict())


@pytest.mark.slow
def test_a_network_that_reads_the_version_of_its_weights_trains_and_is_exported(tmp_path: Path) -> None:
    """torchvision's MNASNet takes weights without a version for those of another network."""
    small = {"federation__rounds": 2, "attack__name": "none", "evaluate__attacks": "fgsm", "data__max_examples": 100}
    path = run(tmp_path, "run", model__name="torchvision:mnasnet0_5", **small)
    done = type_in(["fedshield", "export", str(path)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_exported(path / "export" / "model.safetensors")(torch.rand(2, 3, 32, 32)).shape == (2, 10)
