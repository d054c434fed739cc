"""What the troubles must know of a run, from its configuration and its division of the data."""

from collections.abc import Mapping
from typing import Any

from common.attacks.threat import ITERATED, AttackSpec
from common.config.schema import RunConfig
from common.factory import training_plan
from server.diagnosis.diagnosis import About
from server.run_directory.reader import Kind


def about_run(config: RunConfig, kind: Kind, described: Mapping[str, Any]) -> About:
    """Return what the troubles must know of a run.

    Args:
        config: of the run.
        kind: of the run.
        described: the division, as in ``partition.json``; may be empty.
    """
    total = int(config.flat()[kind.length])
    able = 1.0 if kind.unit == "epoch" else config.federation.adversarial_clients
    clients = described.get("clients", [])
    return About(
        rates=[training_plan(config, 1, number, total).learning_rate for number in range(1, total + 1)],
        adversarial=config.attack.name != "none" and config.attack.epsilon_255 > 0 and able >= 0.5,
        training=training_label(config),
        by_class=[sum(counts) for counts in zip(*clients, strict=True)],
        unit=kind.unit,
    )


def training_label(config: RunConfig) -> str:
    """Return the label of the training attack, as evaluations name it; empty where they cannot run it as it is."""
    name = config.attack.name
    if name == "fgsm":
        return name
    return str(AttackSpec(name, config.attack.steps)) if name in ITERATED else ""
