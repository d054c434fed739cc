"""Diagnoses a run while it goes on: measures, judges, and says what begins and what is over."""

import logging
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from torch import nn

from common.config.schema import RunConfig
from common.data.datasets import Dataset
from common.data.server_data import ServerData
from common.factory import make_federated_method
from common.methods.checks import names_that_stay
from server.aggregation.directions import Directions
from server.diagnosis.about import about_run
from server.diagnosis.diagnosis import SEVERE, Diagnosis
from server.diagnosis.judge import TROUBLES, changes, diagnose, stored
from server.diagnosis.lost_class import FEWEST
from server.diagnosis.probe import Probe
from server.run_directory.reader import CENTRALIZED
from server.run_directory.writer import RunDir

log = logging.getLogger("fedshield")


class RoundDiagnosis:
    """What Recorder and strategy ask in each round of a run with ``diagnosis.enabled``.

    It draws numbers of its own and changes nothing of the run. All that it knows of earlier rounds is in their lines.

    Args:
        config: of the run.
        run: its directory, open.
        data: the server's images.
        model: the run's network, on the device; others put the weights of each round into it.

    Attributes:
        diagnoses: after the last round.
        sees: whether there are images on which the model is judged.
    """

    def __init__(self, config: RunConfig, run: RunDir, data: ServerData, model: nn.Module) -> None:
        self._unit = run.kind.unit
        self._about = about_run(config, run.kind, data.described_partition)
        self._lines = run.metrics()
        self.diagnoses: list[Diagnosis] = stored(self._lines[-1]) if self._lines else []
        federated = run.kind.name != CENTRALIZED.name
        held = held_out(config, data)
        reason = _why_not(config, model, len(held.labels), federated)
        self._probe = None if reason else Probe(config, model, held)
        self.sees = self._probe is not None
        self._changes: list[tuple[str, Diagnosis]] = []
        if reason:
            blind = [trouble.name for trouble in TROUBLES if trouble.images]
            log.info("diagnosis: %s; not judged: %s", reason, ", ".join(blind))
        elif few := int((np.bincount(held.labels, minlength=len(held.classes)) < FEWEST).sum()):
            more = len(held.labels) == config.diagnosis.examples
            log.info(
                "diagnosis: of %d classes, %d have fewer than %d held-out images and cannot be told lost; %s",
                *(len(held.classes), few, FEWEST),
                "raise diagnosis.examples" if more else "more images have to be held out (data.validation-fraction)",
            )

    def compare(self, before: ArrayRecord, weights: Collection[str]) -> Directions:
        """Return what compares the replies of a round.

        Args:
            before: the global model that they are trained from.
            weights: names of its arrays that are trained.
        """
        return Directions(before, weights, self._probe.descent(before) if self._probe else None)

    def measure(self) -> dict[str, Any]:
        """Return the signals of the model as it is now; none without images."""
        return self._probe.signals() if self._probe else {}

    def judge(self, line: Mapping[str, Any], first: int = 1) -> list[dict[str, Any]]:
        """Return the diagnoses after a round, for its line, which has its signals already.

        Args:
            line: of the round.
            first: rounds before this one are not looked at.
        """
        self._lines.append(dict(line))
        before, self.diagnoses = self.diagnoses, diagnose(self._lines, self._about, self.diagnoses, first)
        self._changes = changes(before, self.diagnoses)
        return [diagnosis.as_json() for diagnosis in self.diagnoses]

    def tell(self, number: int) -> None:
        """Log what has changed in the last round: a line when a trouble begins, becomes severe or is over."""
        for what, found in self._changes:
            if what == "is over":
                log.info("%s %d: %s is over", self._unit, number, found.name)
            elif found.severity == SEVERE:
                log.warning("warning: %s %d: %s %s (severe): %s", self._unit, number, found.name, what, found.evidence)
            else:
                log.info("%s %d: %s %s (mild): %s", self._unit, number, found.name, what, found.evidence)


def held_out(config: RunConfig, data: ServerData) -> Dataset:
    """Return the images to judge a model on: none that clients receive, nor may receive by repair; maybe empty."""
    budget = config.repair.sharing_budget if config.repair.enabled else 0.0
    return data.held_out(config.diagnosis.examples, config.seed, max(config.sharing.slice_fraction, budget))


def _why_not(config: RunConfig, model: nn.Module, images: int, federated: bool) -> str:
    """Return why the model cannot be judged on images; empty if it can."""
    if federated and names_that_stay(make_federated_method(config), model):
        return f"method.name = {config.method.name}: arrays of the model stay with the clients, none has the global one"
    if images:
        return ""
    ways = "data.validation-fraction above 0"
    if federated and config.sharing.pool_fraction > 0:
        ways += ", or sharing.fraction below 1"
    return f"no images are held out; set {ways}"
