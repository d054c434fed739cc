"""Evaluates the model after each round and writes what happened into the run directory; chooses the best one."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from common.config.schema import RunConfig
from common.config.tables import TrainConfig
from common.data.server_data import ServerData
from common.errors import DeadEndError
from common.evaluation.evaluate import Evaluation
from common.evaluation.overfitting import told_overfitting
from common.evaluation.personal import tell_personal
from common.messages.records import State
from common.models.networks import load_state
from server.aggregation.strategy import Compare
from server.average import ModelAverage
from server.diagnosis.rounds import RoundDiagnosis
from server.evaluation import evaluate_finally, evaluate_on
from server.monitoring.observers import Watchers
from server.personal import evaluate_personal
from server.repair.rounds import RoundRepair
from server.run_directory.checkpoint import load_model, selected_model
from server.run_directory.index import GOOD, UNAVERAGED, read_checkpoint
from server.run_directory.reader import DEPLOYED, FEDERATION
from server.run_directory.writer import RunDir

log = logging.getLogger("fedshield")


class Recorder:
    """Evaluates and stores every model of a run: the global one after each round, or the only one after each epoch.

    With ``train.average``, or where repair has begun one, this is the average of those models; the model itself is kept
    to go on from.

    Args:
        config: of the run.
        run: its directory, open.
        data: the images to evaluate on; those for validation, where there are some, choose the best model.
        model: the run's network, on the device to evaluate on; takes the weights of each model that is seen.
        watchers: are told of each round and of the end.
    """

    def __init__(
        self,
        config: RunConfig,
        run: RunDir,
        data: ServerData,
        model: nn.Module,
        watchers: Watchers | None = None,
    ) -> None:
        self.config = config
        self.run = run
        self._watchers = watchers or Watchers()
        self.test = data.test
        self.validation = data.validation if len(data.validation.labels) else None
        self.counts = data.counts if run.kind == FEDERATION else None
        self.model = model
        checkpoint = read_checkpoint(run.path) or {}
        self._best: dict[str, Any] | None = checkpoint.get("best", {}).get("validation")
        self._overfits = False
        self.diagnosis = RoundDiagnosis(config, run, data, model) if config.diagnosis.enabled else None
        last = load_model(run.path, checkpoint) if checkpoint else None
        good = run.load_kept(GOOD) or last
        self.repair = RoundRepair(config, run.metrics(), good) if config.repair.enabled else None
        self._average = ModelAverage(self._averaging(), run.completed_rounds, last)
        self._round_started = time.perf_counter()

    @property
    def compare(self) -> Compare | None:
        """What compares the replies of a round, for the diagnosis; None without one."""
        return self.diagnosis.compare if self.diagnosis else None

    def after_round(
        self,
        round_or_epoch: int,
        state: State,
        report: dict[str, Any],
        momenta: Sequence[Tensor] = (),
        kept: Mapping[str, State] | None = None,
    ) -> Evaluation | None:
        """Evaluate, log and store a round.

        Args:
            round_or_epoch: the finished one, in [1, the run's total].
            state: the model after it; nobody may change it afterwards.
            report: what else goes into its line of ``metrics.jsonl``; ``loss`` among it.
            momenta: as in ``RunDir.save_checkpoint``.
            kept: as there.

        Returns:
            The figures on the test set, in rounds with an evaluation. They are only for the reader: nothing is chosen
            by them.
        """
        if (average := self._average.after(round_or_epoch, state)) is not None:
            state, kept = average, {**(kept or {}), UNAVERAGED: state}
        load_state(self.model, state)
        evaluation = validation = None
        if round_or_epoch % self.config.evaluate.every == 0 or round_or_epoch == self.run.total:
            evaluation, validation = self._evaluate()
        signals = {**report.get("signals", {}), **(self.diagnosis.measure() if self.diagnosis else {})}
        now = time.perf_counter()
        seconds, self._round_started = now - self._round_started, now
        figures = {"evaluation": evaluation and evaluation.as_json()}
        if self.validation is not None:
            figures["validation"] = validation and validation.as_json()
        record = {"round": round_or_epoch, "seconds": seconds, **report, **figures}
        if self.diagnosis is not None:
            record["signals"] = signals
            record["diagnoses"] = self.diagnosis.judge(record, self.repair.treatment.first if self.repair else 1)
            if self.repair is not None:
                record["repairs"] = self.repair.after_round(record, self.diagnosis.diagnoses, state)
                kept = {**(kept or {}), GOOD: self.repair.kept(state)}
                self._average.follow(self._averaging())
                self._end_without(record)
        self.run.append_metrics(record)
        chosen = validation.as_json() if validation is not None and self._is_best(validation) else None
        self._best = chosen or self._best
        self.run.save_checkpoint(round_or_epoch, state, chosen, momenta, kept)
        if "privacy" in report:  # no client gets a model of a round that a resumed run would do, and pay for, again
            self.run.wait()
        line = f"{evaluation.line()}  " if evaluation else ""
        if validation is not None:
            line += f"validation {100 * validation.values()['worst']:.1f} %{' (best)' if chosen else ''}  "
        line += f"{_loss(report)}  {_spent(report)}{_turnout(report)}{seconds:.1f} s"
        event = {"event": "round", **record}
        log.info("%s %d/%d  %s", self.run.kind.unit, round_or_epoch, self.run.total, line, extra={"event": event})
        if self.run.kind == DEPLOYED:
            log.info("%s", _seconds(report))
        if self.diagnosis is not None:
            self.diagnosis.tell(round_or_epoch)
        if self.repair is not None:
            self.repair.tell(round_or_epoch)
        if evaluation is not None and not (self.diagnosis and self.diagnosis.sees):
            self._watch(round_or_epoch, evaluation)
        self._watchers.after_round(record)
        return evaluation

    def _averaging(self) -> TrainConfig:
        """Return which models are averaged from now on."""
        return self.repair.averaging() if self.repair is not None else self.config.train

    def _end_without(self, record: Mapping[str, Any]) -> None:
        """End the run as without repair if a round has no model and the next would start from the same one.

        Nothing is written down, so that a resumed run begins with this very round.

        Raises:
            DeadEndError: why the round has no model.
        """
        if self.repair is None or "failed" not in record or self.repair.treatment.back or self.repair.treatment.end:
            return
        self.repair.tell(record["round"])
        raise DeadEndError(record["failed"])

    def _evaluate(self) -> tuple[Evaluation, Evaluation | None]:
        settings = self.config.evaluate
        arguments = self.config, settings.attacks, settings.examples
        evaluation = evaluate_on(self.model, self.test, *arguments)
        return evaluation, evaluate_on(self.model, self.validation, *arguments) if self.validation is not None else None

    def _watch(self, round_or_epoch: int, evaluation: Evaluation) -> None:
        """Warn when catastrophic overfitting begins; without adversarial training, the same figures mean nothing."""
        line = told_overfitting(evaluation.values()) if self.config.attack.name != "none" else ""
        if line and not self._overfits:
            log.warning("warning: %s %d: %s", self.run.kind.unit, round_or_epoch, line)
        self._overfits = bool(line)

    def _is_best(self, validation: Evaluation) -> bool:
        """Compare worst-case robust accuracy, then natural; if both are equal, keep the earlier round."""
        if self._best is None:
            return True
        before = tuple(self._best[name]["value"] for name in ("worst", "natural"))
        now = validation.values()  # there is an attack: the configuration makes sure
        return (now["worst"], now["natural"]) > before

    def _privacy(self) -> dict[str, Any] | None:
        """Return what all models of the run have cost: the clients have had each of them."""
        return next((record.get("privacy") for record in reversed(self.run.metrics())), None)

    def finish(self) -> None:
        """Evaluate the best model on validation data, or else the last, with the final attacks; write the summary."""
        self.run.wait()
        round_or_epoch, state = selected_model(self.run.path)
        load_state(self.model, state)
        final = figures = None
        if self.config.evaluate.final_attacks:
            kept_dir = self.run.path / "evaluations"
            final, figures = evaluate_finally(self.model, self.test, self.config, self.counts, kept_dir)
            if own := evaluate_personal(self.run.path, self.model, self.test, self.config, self.counts, final):
                figures["personal"] = own
        summary: dict[str, Any] = {
            "rounds": self.run.completed_rounds,
            "seconds": sum(record["seconds"] for record in self.run.metrics()),
            "evaluated-round": round_or_epoch,
            "selected-by": "validation" if self._best else "last round",
            **({"privacy": spent} if (spent := self._privacy()) else {}),
            "final": figures,
        }
        self.run.write_json("summary.json", summary)
        self._watchers.after_run(summary)
        if final is not None:
            of = f"of {self.run.kind.unit} {round_or_epoch}  " if self._best else ""
            train = self._average.train
            averaged = train.average != "none" and round_or_epoch >= train.average_start
            of += f"of the average ({train.average})  " if averaged else ""
            ece = f"  ECE {100 * found['ece']:.1f} %" if figures and (found := figures["calibration"]) else ""
            log.info("final  %s%s%s", of, final.line(), ece, extra={"event": {"event": "final", **summary}})
            for line in tell_personal((figures or {}).get("personal", {})):
                log.info("%s", line)
            if figures and (found := figures.get("backdoor")):
                rates = [100 * found[name]["value"] for name in ("with", "without")]
                log.info(
                    "final  backdoor: with the trigger %.1f %% of other classes' images pass for %s, without %.1f %%",
                    *(rates[0], found["target"], rates[1]),
                )


def _loss(report: dict[str, Any]) -> str:
    return f"loss {report['loss']:.3f}" if "loss" in report else "no new model"


def _spent(report: dict[str, Any]) -> str:
    """Return what the models so far have cost in privacy; empty without."""
    return f"epsilon {spent['epsilon']:.3g}  " if (spent := report.get("privacy")) else ""


def _turnout(report: dict[str, Any]) -> str:
    """Return how many of a round's clients gave valid replies, and the slowest; empty for centralized training."""
    if not (clients := report.get("clients")):
        return ""
    slowest = max(clients, key=lambda client: clients[client]["seconds"])
    asked = len(clients) + len(report["refused"])
    return f"{len(clients)}/{asked} clients (slowest: {slowest}, {clients[slowest]['seconds']:.1f} s)  "


def _seconds(report: dict[str, Any]) -> str:
    """Return how long each client has trained, for a log of real clients."""
    return "clients  " + "  ".join(f"{client}: {told['seconds']:.1f} s" for client, told in report["clients"].items())
