"""What a configuration names, tried on two images: a mistake shows before anything is trained."""

import torch

from common.attacks.library import OF_EVALUATION, attack_mode, build_attack, check_classes
from common.attacks.threat import AttackSpec
from common.config.schema import RunConfig
from common.data.downloads import PUBLISHED
from common.data.image_folders import list_images
from common.data.shapes10 import CLASSES
from common.factory import check_own, evaluation_threat, make_method, make_model
from common.paths import whole_path
from common.user_code import is_own
from server.aggregation.robust import check_strategy


def try_out(config: RunConfig, federation: bool) -> None:
    """Look at the strategy and the attacks; build the network, and call those losses and attacks that are a user's.

    Raises:
        FedShieldError: one line with the key, and the user's line where the mistake is there.
    """
    if federation:
        check_strategy(config.strategy, config.federation.cohort)
    check_own(config)
    labels = dict.fromkeys((*config.evaluate.attacks, *config.evaluate.final_attacks))
    classes = count_classes(config)
    check_classes(labels, classes)
    model = make_model(config, classes)
    images, targets = torch.rand(2, 3, config.data.side, config.data.side), torch.tensor([0, classes - 1])
    if is_own(config.loss.name) or is_own(config.attack.name):
        make_method(config, model.train(), classes).loss_for((1,) * classes)(images, targets)
    for label in labels:
        spec = AttackSpec.parse(label)
        if is_own(spec.name):
            threat = spec.within(evaluation_threat(config))
            with attack_mode(model):
                build_attack(spec.name, model, threat, classes, OF_EVALUATION)(images, targets)


def count_classes(config: RunConfig) -> int:
    """Return how many classes a dataset has, of which a folder is there and what is published may not be yet."""
    if config.data.name == "folder":
        return len(list_images(whole_path(config.data.root) / "train"))
    return PUBLISHED[config.data.name].classes if config.data.name in PUBLISHED else len(CLASSES)
