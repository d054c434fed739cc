"""Evaluates the global model after each round and writes what happened into the run directory."""

import logging
import time

import torch
from flwr.app import ArrayRecord, MetricRecord

from common.config import RunConfig
from common.data import Dataset
from common.records import to_state
from common.setup import make_model
from server.evaluate import evaluate_on
from server.rundir import RunDir
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
