"""Prints the version of torchattacks, and a digest of what each attack through it makes of the same images."""

import hashlib
import json
from importlib.metadata import version

import torch
from torch import nn

from common.attacks.library import ATTACKS, build_attack
from common.attacks.threat import L2, LINF, Threat

CLASSES = 10
STEPS = {"square": 60, "cw-l2": 20, "deepfool": 10}


def network() -> nn.Module:
    """Return a network whose logits have either sign."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 15 * 15, CLASSES)).eval()


def main() -> None:
    model, draw = network(), torch.Generator().manual_seed(2)
    images = torch.rand(12, 3, 32, 32, generator=draw)
    labels = model(images).argmax(1)
    labels[::2] = torch.randint(CLASSES, (6,), generator=draw)  # the attacks also meet images that are wrong already
    digests = {}
    for norm, epsilon in ((LINF, 2 / 255), (L2, 0.3)):
        for name in ATTACKS:
            threat = Threat(epsilon, epsilon / 4, STEPS.get(name, 8), norm)
            torch.manual_seed(3)
            made = build_attack(name, model, threat, CLASSES)(images, labels)
            digests[f"{name} {norm}"] = hashlib.sha256(made.numpy().tobytes()).hexdigest()
    print(json.dumps({"version": version("torchattacks"), "digests": digests}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
