"""Attacks against an implementation by other hands, the Adversarial Robustness Toolbox (Nicolae et al. 2018).

The code of AutoAttack's authors is on no package index; docs/method.md says what the comparison with it gave.
"""

import numpy as np
import pytest
import torch
from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack
from art.estimators.classification import PyTorchClassifier
from torch import nn

from common.data.datasets import Dataset
from common.evaluation.evaluate import evaluate
from common.evaluation.sanity_checks import find_warnings
from tests.helpers.trained import THREAT, trained_network

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Dataset]:
    return trained_network(100)


def test_robust_accuracy_agrees_with_another_implementation(trained: tuple[nn.Module, Dataset]) -> None:
    model, test = trained
    images, labels = test.images, test.labels
    found = evaluate(model, images, labels, ("apgd-ce-50", "square-200", "pgd-20"), THREAT, 1)
    assert 20 < found.robust["apgd-ce-50"].correct < found.natural.correct - 10  # or the comparison would say nothing
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0, 1), device_type="cpu")
    epsilon = THREAT.epsilon
    np.random.seed(1)  # noqa: NPY002  # which is where ART draws from
    others = {
        "apgd-ce-50": AutoProjectedGradientDescent(
            classifier, eps=epsilon, eps_step=2 * epsilon, max_iter=50, nb_random_init=1, batch_size=100, verbose=False
        ),
        "square-200": SquareAttack(classifier, eps=epsilon, max_iter=200, nb_restarts=1, batch_size=100, verbose=False),
    }
    pixels = images.astype(np.float32) / 255
    for label, attack in others.items():
        adversarial = attack.generate(pixels, labels)
        assert np.abs(adversarial - pixels).max() <= epsilon + 1e-6
        with torch.no_grad():
            robust = (model(torch.from_numpy(adversarial)).argmax(1).numpy() == labels) & found.masks()["natural"]
        assert (robust != found.masks()[label]).sum() <= 2  # with 100 and 500 steps: none
    assert find_warnings(model, images, labels, found, THREAT, 1) == ()
