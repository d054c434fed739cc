"""Evaluates a run's model on test images: after each round, at the end, and whenever ``fedshield evaluate`` asks."""

from datetime import datetime
from pathlib import Path

import torch

from common.config import RunConfig
from common.data import Dataset, balanced_subset
from common.errors import FedShieldError
from common.evaluation import Evaluation, evaluate
from common.flat import Flat
from common.seeding import seed_for
from common.setup import make_model, prepare_data, prepare_torch, threat_of
from server.rundir import append_json_line, load_model, read_checkpoint, stored_config


def evaluate_on(
    model: torch.nn.Module, test: Dataset, config: RunConfig, attacks: tuple[str, ...], examples: int
) -> Evaluation:
    """Evaluate on ``examples`` test images, balanced over the classes: the same ones for every seed and every run."""
    subset = test.take(balanced_subset(test.labels, examples, 0, "evaluation"))
    seed = seed_for(config.seed, "evaluate")
    return evaluate(model, subset.images, subset.labels, attacks, threat_of(config), seed)


def evaluate_run(run_dir: Path, changes: Flat) -> tuple[int, RunConfig, Evaluation]:
    """Evaluate a run's checkpoint with its final attacks, and append the result to its ``evaluations.jsonl``.

    Args:
        run_dir: absolute.
        changes: keys of the stored configuration to change, such as ``evaluate.final-attacks``.

    Returns:
        The checkpoint's round, the configuration and the figures.
    """
    config = stored_config(run_dir, changes, "options")
    checkpoint = read_checkpoint(run_dir)
    if checkpoint is None:
        raise FedShieldError(f"{run_dir}: has no checkpoint; no round of this run was finished")
    device = prepare_torch(config.threads)
    test = prepare_data(config)[0].test
    model = make_model(config, len(test.classes)).to(device)
    model.load_state_dict(load_model(run_dir, checkpoint))
    settings = config.evaluate
    result = evaluate_on(model, test, config, settings.final_attacks, settings.final_examples)
    line = {
        "at": datetime.now().isoformat(timespec="seconds"),
        "round": checkpoint["round"],
        "epsilon-255": config.attack.epsilon_255,
        **result.as_json(),
    }
    append_json_line(run_dir / "evaluations.jsonl", line)
    return int(checkpoint["round"]), config, result
