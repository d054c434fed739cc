"""Training methods against their equations."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import torchattacks
from torch import Tensor, nn

from common.attacks.threat import Threat
from common.config.flat import default_config
from common.config.schema import parse_config
from common.models.networks import build_model
from common.training.calibration import AUTHORS_CODE, EQUATIONS, Calibrated, Calibration, log_prior
from common.training.losses import LOSSES, LossContext, soft_cross_entropy
from tests.helpers.fixed import Fixed

IMAGES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 3, 1, 2, 9])
THREAT = Threat(8 / 255, 2 / 255, 3)
CONTEXT = LossContext("pgd", THREAT, label_smoothing=0.05, noise_std=0.1, class_counts=(1,) * 10)
SILENT = replace(EQUATIONS, absent=0.0)


def test_soft_labels_by_hand() -> None:
    # Three classes, alpha = 0.3: true class 1 − 0.3·2/3 = 0.8, the others 0.3/3 = 0.1. Logits 0, 0, ln 2 give the
    # probabilities 1/4, 1/4, 1/2, so with true class 2: −(0.1 ln ¼ + 0.1 ln ¼ + 0.8 ln ½) = 0.4 ln 2 + 0.8 ln 2.
    logits = torch.tensor([[0.0, 0.0, math.log(2)]])
    assert soft_cross_entropy(logits, torch.tensor([2]), 0.3).item() == pytest.approx(1.2 * math.log(2))


class Recorder(nn.Module):
    """Keeps what it was shown while in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build_model("cnn", 10, 2, "relu", True, 1)
        self.seen: list[Tensor] = []

    def forward(self, pixels: Tensor) -> Tensor:
        if self.training:
            self.seen.append(pixels.detach())
        logits: Tensor = self.inner(pixels)
        return logits


def test_pgd_at_trains_on_torchattacks_examples_alone() -> None:
    model = Recorder().train()
    torch.manual_seed(5)
    value = LOSSES["pgd-at"](model, CONTEXT)(IMAGES, LABELS)
    reference = Recorder()
    torch.manual_seed(5)
    adversarial = torchattacks.PGD(reference.eval(), eps=8 / 255, alpha=2 / 255, steps=3)(IMAGES, LABELS)
    (seen,) = model.seen
    assert torch.equal(seen, adversarial)
    expected = F.cross_entropy(reference.train()(adversarial), LABELS, label_smoothing=0.05)
    assert value.item() == expected.item()


def test_mixed_at_joins_noised_natural_and_adversarial_images() -> None:
    model = Recorder().train()
    images = IMAGES.repeat(40, 1, 1, 1)
    LOSSES["mixed-at"](model, CONTEXT)(images, LABELS.repeat(40))
    (seen,) = model.seen
    noisy, adversarial = seen.split(len(images))
    assert seen.min() >= 0
    assert seen.max() <= 1
    assert (adversarial - images).abs().max() <= 8 / 255 + 1e-6
    inner = (images > 0.4) & (images < 0.6)  # four standard deviations from the clamp
    noise = (noisy - images)[inner]
    assert noise.mean().item() == pytest.approx(0, abs=0.002)
    assert noise.std().item() == pytest.approx(0.1, abs=0.002)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_get_a_gradient_and_the_attack_leaves_none(name: str) -> None:
    model = build_model("cnn", 10, 2, "relu", True, 1)
    loss = LOSSES[name](model, CONTEXT)(IMAGES, LABELS)
    assert all(parameter.grad is None for parameter in model.parameters())
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_prior_of_an_absent_class_by_hand() -> None:
    # Two classes of 400 images, and one that counts as one image: log(400 / 1) = 5.99; as 1e-7: log 4e9 = 22.1.
    gaps = [(prior[0] - prior[2]).item() for prior in (log_prior((400, 400, 0), absent) for absent in (1.0, 0.0))]
    assert gaps == pytest.approx([5.9915, 22.1095], abs=1e-4)
    assert log_prior((300, 100, 0), 0.0).exp().tolist() == pytest.approx([0.75, 0.25, 0], abs=1e-6)


class AuthorsCode:
    """What the code of CalFAT's authors computes (github.com/cc233/CalFAT, commit e53f8e8), written out.

    Its data statistics count 1 image for a class that a client lacks.
    """

    def __init__(self, class_counts: tuple[int, ...]) -> None:
        self.counts = torch.tensor([float(count) if count else 1.0 for count in class_counts])

    def logits_in_attack(self, logits: Tensor) -> Tensor:
        return logits + 0.1 * torch.log(self.counts + 1e-7)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(10 * (logits + 0.1 * torch.log(self.counts + 1e-7)), labels)

    def attack(self, model: nn.Module, images: Tensor) -> Tensor:
        adversarial = images + 0.001 * torch.randn_like(images)
        for _ in range(THREAT.steps):
            adversarial = adversarial.detach().requires_grad_()
            logs = F.log_softmax(self.logits_in_attack(model(adversarial)), 1)
            natural = F.softmax(self.logits_in_attack(model(images)), 1)
            (gradient,) = torch.autograd.grad(F.kl_div(logs, natural, reduction="sum"), adversarial)
            moved = adversarial.detach() + THREAT.step * gradient.sign()
            adversarial = moved.clamp(images - THREAT.epsilon, images + THREAT.epsilon).clamp(0, 1)
        return adversarial.detach()


def test_calfat_is_its_authors_code() -> None:
    counts = (250, 30, 0, 120, 0, 0, 0, 0, 0, 7)
    authors, model = AuthorsCode(counts), Recorder().train().double()
    images = 0.1 + 0.8 * IMAGES.double()  # the authors leave out that the start is clamped to [0, 1]
    torch.manual_seed(2)
    loss = LOSSES["calfat"](model, LossContext("pgd", THREAT, 0.0, 0.0, calibration=AUTHORS_CODE, class_counts=counts))
    value = loss(images, LABELS).item()
    (seen,) = model.seen
    reference = Recorder().eval().double()
    torch.manual_seed(2)
    expected = authors.attack(reference, images)
    assert torch.allclose(seen, expected, atol=1e-6)
    assert value == pytest.approx(authors.loss(reference.train()(seen), LABELS).item(), rel=1e-5)


def test_calfats_loss_by_hand() -> None:
    # Logits 0.1, 0.2, 0.3 and 400, 100 and no images: 10 z + log n = 1 + log 400, 2 + log 100, 3 + log 1. So the loss
    # of class 0 is log(1 + e/4 + e²/400).
    context = LossContext("pgd", THREAT, 0.0, 0.0, class_counts=(400, 100, 0))
    for attack in ("kl", "pgd"):
        calibrated = replace(context, calibration=replace(AUTHORS_CODE, attack=attack))
        found = LOSSES["calfat"](Fixed(0.1, 0.2, 0.3), calibrated)(IMAGES[:1], torch.tensor([0])).item()
        assert found == pytest.approx(math.log(1 + math.e / 4 + math.e**2 / 400), abs=1e-5)


def test_calfat_with_pgd_attacks_its_loss() -> None:
    counts = (250, 30, 0, 120, 0, 0, 0, 0, 0, 7)
    calibration = replace(AUTHORS_CODE, attack="pgd")
    model = Recorder().train()
    torch.manual_seed(2)
    LOSSES["calfat"](model, LossContext("pgd", THREAT, 0.0, 0.0, calibration=calibration, class_counts=counts))(
        IMAGES, LABELS
    )
    (seen,) = model.seen
    attacked = Calibrated(Recorder().eval(), log_prior(counts, 1.0), scale=10.0).eval()
    torch.manual_seed(2)
    pgd = torchattacks.PGD(attacked, eps=8 / 255, alpha=2 / 255, steps=3, random_start=True)
    assert torch.equal(seen, pgd(IMAGES, LABELS))


def test_calfats_equations_by_hand() -> None:
    # Logits 0, 0 and counts 30, 10, so priors 3/4 and 1/4: the calibrated prediction is the prior itself, and the
    # losses of one image of each class are −ln ¾ and −ln ¼; with the sign of the prior reversed they change places.
    context = LossContext("pgd", THREAT, 0.0, 0.0, calibration=SILENT, class_counts=(30, 10))
    loss = LOSSES["calfat"](Fixed(0.0, 0.0), context)
    common = loss(IMAGES[:1], torch.tensor([0])).item()
    rare = loss(IMAGES[:1], torch.tensor([1])).item()
    assert (common, rare) == pytest.approx((math.log(4 / 3), math.log(4)), abs=1e-6)
    # Logits 1, 3: σ(1 + ln ¾, 3 + ln ¼) = 3e / (3e + e³), so −ln of it is ln(1 + e²/3).
    loss = LOSSES["calfat"](Fixed(1.0, 3.0), context)
    assert loss(IMAGES[:1], torch.tensor([0])).item() == pytest.approx(math.log(1 + math.e**2 / 3), abs=1e-5)


def test_calfat_leaves_the_logit_of_an_absent_class_alone() -> None:
    model = Fixed(0.0, 0.0, 0.0)
    context = LossContext("pgd", THREAT, 0.0, 0.0, calibration=SILENT, class_counts=(5, 5, 0))
    loss = LOSSES["calfat"](model, context)
    (gradient,) = torch.autograd.grad(loss(IMAGES[:2], torch.tensor([0, 1])), [model.logits])
    assert gradient.tolist() == pytest.approx([0, 0, 0], abs=1e-7)
    # Without the prior, the two classes at hand pull it down by its probability, 1/3.
    plain = LOSSES["pgd-at"](model, LossContext("none", THREAT, 0.0, 0.0))
    (gradient,) = torch.autograd.grad(plain(IMAGES[:2], torch.tensor([0, 1])), [model.logits])
    assert gradient.tolist() == pytest.approx([-1 / 6, -1 / 6, 1 / 3], abs=1e-6)


def test_calfat_with_equal_counts_is_plain_training_on_its_own_attack() -> None:
    model = build_model("cnn", 10, 2, "relu", True, 1)
    torch.manual_seed(2)
    found = LOSSES["calfat"](model, replace(CONTEXT, calibration=SILENT))(IMAGES, LABELS)
    torch.manual_seed(2)
    adversarial = torchattacks.TPGD(model.eval(), eps=8 / 255, alpha=2 / 255, steps=3)(IMAGES, LABELS)
    expected = F.cross_entropy(model.train()(adversarial), LABELS)
    # The same divergence, rounded otherwise: where the gradient is next to 0 its sign may differ.
    assert found.item() == pytest.approx(expected.item(), rel=0.02)


@pytest.mark.parametrize("counts", [(90, 5, 5, 0, 0, 0, 0, 0, 0, 0), (1, 2, 3, 4, 5, 6, 7, 8, 9, 500)])
def test_calfat_attacks_the_calibrated_prediction(counts: tuple[int, ...]) -> None:
    context = LossContext("pgd", THREAT, 0.0, 0.0, calibration=SILENT, class_counts=counts)
    model = Recorder().train()
    torch.manual_seed(2)
    LOSSES["calfat"](model, context)(IMAGES, LABELS)
    (seen,) = model.seen
    reference = Recorder().eval()
    torch.manual_seed(2)
    calibrated = Calibrated(reference, log_prior(counts, 0.0)).eval()
    expected = torchattacks.TPGD(calibrated, eps=8 / 255, alpha=2 / 255, steps=3)(IMAGES, LABELS)
    torch.manual_seed(2)
    plain = torchattacks.TPGD(reference, eps=8 / 255, alpha=2 / 255, steps=3)(IMAGES, LABELS)
    assert torch.equal(seen, expected)
    assert not torch.equal(seen, plain)


def test_calfats_prior_silences_an_absent_class() -> None:
    class Pixels(Fixed):
        def forward(self, pixels: Tensor) -> Tensor:
            return 20 * pixels[:, 0, 0, :3] + 0 * self.logits.sum()

    gradients = []
    for counts in ((9, 1, 0), (1, 1, 1)):
        pixels = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
        logs = F.log_softmax(Calibrated(Pixels(0.0), log_prior(counts, 0.0))(pixels), 1)
        gradients.append(torch.autograd.grad(logs[0, 0], pixels)[0][0, 0, 0, 2].item())
    # d log p_0 / d pixel_2 = −20 p_2: nothing with the prior, −20/3 without.
    assert gradients == pytest.approx([0, -20 / 3], abs=1e-4)


def test_trades_by_hand() -> None:
    # The first pixel moves the logits (0, 20 x): the attack, which climbs the KL divergence, ends 8/255 away or at the
    # steps it has; with one step of 2/255 from x ± 0.001 noise it is exactly 2/255 away from where it started.
    class Slope(Fixed):
        def forward(self, pixels: Tensor) -> Tensor:
            x = pixels[:, 0, 0, 0] + 0 * self.logits.sum()
            return torch.stack([0 * x, 20 * (x - 0.5)], 1)

    images = torch.full((1, 3, 4, 4), 0.5)
    torch.manual_seed(4)
    loss = LOSSES["trades"](Slope(0.0), LossContext("pgd", Threat(8 / 255, 2 / 255, 1), 0.0, 0.0, beta=3.0))
    found = loss(images, torch.tensor([1])).item()
    torch.manual_seed(4)
    start = 0.001 * torch.randn_like(images)[0, 0, 0, 0].item()
    moved = start + math.copysign(2 / 255, start)
    p = 1 / (1 + math.exp(-20 * moved))
    # Natural prediction: ½, ½. CE = ln 2; KL(½ ‖ p) = ½ ln(½ / (1 − p)) + ½ ln(½ / p).
    divergence = 0.5 * math.log(0.5 / (1 - p)) + 0.5 * math.log(0.5 / p)
    assert found == pytest.approx(math.log(2) + 3 * divergence, rel=1e-4)


def test_mart_by_hand() -> None:
    # An image that no attack can move, with probabilities ½, ¼, ¼: KL = 0, and for class 0
    # BCE = −ln ½ − ln(1 − ¼) = ln 2 + ln 4/3; for class 1: −ln ¼ − ln(1 − ½) = ln 8.
    model = Fixed(math.log(2), 0.0, 0.0)
    loss = LOSSES["mart"](model, LossContext("pgd", THREAT, 0.0, 0.0))
    assert loss(IMAGES[:1], torch.tensor([0])).item() == pytest.approx(math.log(8 / 3), rel=1e-5)
    assert loss(IMAGES[:1], torch.tensor([1])).item() == pytest.approx(math.log(8), rel=1e-5)


def test_mart_stays_finite_when_the_answer_is_wrong_and_sure() -> None:
    # −ln p_0 − ln(1 − p_1) with logits 0, 40, 0: 40 + (40 − ln 2), where p_1 rounds to 1.
    model = Fixed(0.0, 40.0, 0.0)
    loss = LOSSES["mart"](model, LossContext("pgd", THREAT, 0.0, 0.0))(IMAGES[:1], torch.tensor([0]))
    (gradient,) = torch.autograd.grad(loss, [model.logits])
    assert loss.item() == pytest.approx(80 - math.log(2), rel=1e-5)
    assert torch.isfinite(gradient).all()


def test_marts_divergence_counts_by_how_unsure_the_natural_prediction_is() -> None:
    model = build_model("cnn", 10, 2, "relu", True, 1).eval()
    values = []
    for beta in (0.0, 6.0):
        torch.manual_seed(1)
        values.append(LOSSES["mart"](model, LossContext("pgd", THREAT, 0.0, 0.0, beta=beta))(IMAGES, LABELS).item())
    torch.manual_seed(1)
    adversarial = torchattacks.PGD(model, eps=8 / 255, alpha=2 / 255, steps=3)(IMAGES, LABELS)
    natural = F.softmax(model.eval()(IMAGES), 1)
    each = F.kl_div(F.log_softmax(model(adversarial), 1), natural, reduction="none").sum(1)
    expected = 6 * (each * (1 - natural[torch.arange(5), LABELS])).mean().item()
    assert values[1] - values[0] == pytest.approx(expected, rel=1e-3)


def test_calfat_by_default_is_its_equations() -> None:
    loss = parse_config(default_config()).loss
    configured = Calibration(loss.calfat_absent, loss.calfat_scale, loss.calfat_attack)
    assert configured == EQUATIONS == LossContext.calibration
