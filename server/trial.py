"""Can attacks, method and the user's own code work with this network? Tried on random images before the first round."""

import numpy as np
import torch
from torch import nn

from common.attacks.library import OF_EVALUATION, build_attack, check_classes
from common.attacks.threat import AttackSpec
from common.config.schema import RunConfig
from common.errors import DeadEndError, FedShieldError
from common.factory import evaluation_threat, make_federated_method, make_method, threat_of
from common.models.modes import keep_modes, keep_statistics
from common.seeding import rng_for
from common.training.context import Loss
from common.user_code import explain_user_code, is_user_code
from server.preflight import check_reach
from server.run_directory.reader import CENTRALIZED, DEPLOYED, Kind


def try_model(config: RunConfig, kind: Kind, model: nn.Module, classes: int) -> None:
    """Check that every attack, the method and the user's own code can work with a network; it is left as it was.

    Args:
        config: of the run.
        kind: of the run.
        model: as it is trained, on its device.
        classes: its number of logits.

    Raises:
        FedShieldError: one line with the key, and the user's line where the mistake is there.
    """
    if classes < 2:
        raise FedShieldError(f"data.name = {config.data.name}: its images are all of one class; give two or more")
    check_attacks(config, classes)
    if kind != CENTRALIZED:
        make_federated_method(config).check(model)
    if kind != DEPLOYED:  # there the clients compute elsewhere
        try_own_loss(config, model, classes)
    try_own_attacks(config, model, classes)


def check_attacks(config: RunConfig, classes: int) -> None:
    """Check that every attack of the run, the final ones too, can attack such a model, with steps that are long enough.

    Args:
        config: of the run.
        classes: number of logits, 2 or more.

    Raises:
        FedShieldError: one of them needs more classes, or longer steps.
    """
    check_reach(config, training=True)
    check_classes((*config.evaluate.attacks, *config.final_attacks(classes)), classes)


def try_own_loss(config: RunConfig, model: nn.Module, classes: int) -> None:
    """Call the user's loss on two images, and on some more where it teaches nothing from two.

    Args:
        config: of the run.
        model: as it is trained, on its device; it is left as it was.
        classes: its number of logits.

    Raises:
        FedShieldError: it raises, returns no loss, changes the model, or teaches nothing from either batch.
    """
    if not is_user_code(config.loss.name):
        return
    more = list(range(min(classes, 16))) * 2  # a contrastive loss needs two images of a class
    gpus = [next(model.parameters()).device] if next(model.parameters()).is_cuda else []
    with keep_modes(model), keep_statistics(model), torch.random.fork_rng(gpus):
        loss = make_method(config, model.train(), classes).loss_for(np.arange(classes))
        for labels in ([0, classes - 1], more):
            fault = _fault(config.loss.name, loss, model, _images(config, model, labels))
            if fault is None:
                return
    raise DeadEndError(f"loss.name = {config.loss.name}: {fault}, on {len(more)} random images: nothing can be learned")


def _fault(name: str, loss: Loss, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> str | None:
    """Return why a step down a user's loss changes no weight, or makes them useless; None if it does neither."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    before = [weight.detach().clone() for weight in weights]
    value = loss(*batch)
    model.zero_grad()  # what the loss may have left there is not used
    if not all(map(torch.equal, before, weights)):
        raise DeadEndError(f"loss.name = {name}: changes the model's weights; it must only return the batch's loss")
    if not value.isfinite():
        return f"is {value.item()}"
    with explain_user_code("loss.name", name):
        found = torch.autograd.grad(value, weights, allow_unused=True)
    gradients = [gradient for gradient in found if gradient is not None]
    if not all(gradient.isfinite().all() for gradient in gradients):
        return "has a gradient that is not finite"
    if not any(gradient.any() for gradient in gradients):
        return "has no gradient with respect to the model's weights"
    return None


def _images(config: RunConfig, model: nn.Module, labels: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random images for these labels, the same for the same seed, on the model's device."""
    device, shape = next(model.parameters()).device, (len(labels), 3, config.data.side, config.data.side)
    images = torch.from_numpy(rng_for(config.seed, "try").random(shape, np.float32)).to(device)
    return images, torch.tensor(labels, device=device)


def try_own_attacks(config: RunConfig, model: nn.Module, classes: int) -> None:
    """Call each of the user's attacks once on two images; one without a form in L2 is then found before training.

    Args:
        config: of the run.
        model: as it is trained, on its device.
        classes: its number of logits.

    Raises:
        FedShieldError: an attack raises, leaves the ball, or changes the model.
    """
    images, targets = _images(config, model, [0, classes - 1])
    specs = [AttackSpec.parse(label) for label in (*config.evaluate.attacks, *config.final_attacks(classes))]
    tried = [(OF_EVALUATION, spec.name, spec.within(evaluation_threat(config))) for spec in specs]
    for key, name, threat in dict.fromkeys([("attack.name", config.attack.name, threat_of(config)), *tried]):
        if is_user_code(name):
            build_attack(name, model, threat, classes, key)(images, targets)
