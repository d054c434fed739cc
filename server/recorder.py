"""Evaluates the global model after each round and writes what happened into the run directory."""

import logging
import time
from datetime import datetime
from pathlib import Path

import torch
from flwr.app import ArrayRecord, MetricRecord

from common.config import RunConfig
from common.data import Dataset, balanced_subset
from common.errors import FedShieldError
from common.evaluation import Evaluation, evaluate
from common.flat import Flat
from common.records import to_state
from common.seeding import seed_for
from common.setup import make_model, prepare_data, prepare_torch, threat_of
from server.rundir import RunDir, append_json_line, load_model, read_checkpoint, stored_config
from server.strategy import SharedDataFedAvg

log = logging.getLogger("fedshield")


class Recorder:
    """Sees every global model of a run.

    Args:
        config: of the run.
        run: its directory, open.
        strategy: tells what each round's clients did.
        test: the test set.
        device: where to evaluate.
    """

    def __init__(
        self, config: RunConfig, run: RunDir, strategy: SharedDataFedAvg, test: Dataset, device: torch.device
    ) -> None:
        self.config = config
        self.run = run
        self.strategy = strategy
        self.test = test
        self.model = make_model(config, len(test.classes)).to(device)
        self._round_started = time.perf_counter()

    def after_round(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Evaluate, log and store a round; the signature is that of Flower's ``evaluate_fn``."""
        if server_round == 0:  # Flower asks before the first round too
            return None
        server_round += self.strategy.done
        state = to_state(arrays)
        self.model.load_state_dict(state)
        settings, rounds = self.config.evaluate, self.config.federation.rounds
        evaluation = None
        if server_round % settings.every == 0 or server_round == rounds:
            evaluation = evaluate_on(self.model, self.test, self.config, settings.attacks, settings.examples)
        now = time.perf_counter()
        seconds, self._round_started = now - self._round_started, now
        self.run.append_metrics(
            {
                "round": server_round,
                "seconds": seconds,
                **self.strategy.report,
                "evaluation": evaluation.as_json() if evaluation else None,
            }
        )
        self.run.save_checkpoint(server_round, state)
        figures = f"{evaluation.line()}  " if evaluation else ""
        loss = self.strategy.report["loss"]
        log.info("round %d/%d  %sloss %.3f  %.1f s", server_round, rounds, figures, loss, seconds)
        return MetricRecord({**evaluation.values()}) if evaluation else None

    def finish(self) -> None:
        """Evaluate the last model with the final attacks and write the summary."""
        settings = self.config.evaluate
        final = None
        if settings.final_attacks:
            final = evaluate_on(self.model, self.test, self.config, settings.final_attacks, settings.final_examples)
            log.info("final  %s", final.line())
        self.run.wait()
        self.run.write_json(
            "summary.json",
            {
                "rounds": self.run.done,
                "seconds": sum(record["seconds"] for record in self.run.metrics()),
                "final": final.as_json() if final else None,
            },
        )


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
