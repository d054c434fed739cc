"""What ``strategy.update-limit`` costs honest clients, and what it leaves to a liar.

    python -m benchmarks.update_limit [--images data/cifar10-jpeg]

``honest``: how often the limit refuses an honest client, and the limit at which it would refuse none; all presets, and
settings whose clients differ more. ResNet-18 has a width of 8 here, and attacks one step: what differs is the data.
``liar``: one client of ten who knows all other replies sends, in one round of the quickstart, the opposite of what they
have learnt, as long as the limit allows, with statistics that are as wrong as it allows; for the default limit also
each of the two alone. Accuracy before and after.
"""

import argparse
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median_low
from typing import Any

import torch
from flwr.app import ArrayRecord, Message, MessageType

from benchmarks.harness import report
from common.config.flat import default_config, merge
from common.config.schema import RunConfig, parse_config
from common.factory import make_model
from common.messages.records import State, to_record, to_state
from server.aggregation.outliers import STATISTICS, judge
from server.aggregation.reply_checks import Checked, ReplyChecks
from server.app import run_federation
from server.run_directory.reader import read_metrics
from simulations.cli.options import resolve
from simulations.engine.executor import Executor, InProcess, Job, Outcome
from simulations.engine.local_grid import LocalGrid

WEIGHTS, STATISTICS_ALONE, BOTH = "weights", "statistics", "both"
LIES = [*((limit, BOTH) for limit in (3.0, 5.0, 10.0, 30.0)), (5.0, WEIGHTS), (5.0, STATISTICS_ALONE)]
_QUICK = {
    "threads": 1,
    "evaluate.examples": 10,
    "evaluate.attacks": "fgsm",
    "evaluate.final-attacks": "",
    "attack.steps": 1,
}
_LESS = {**_QUICK, "data.name": "folder", "data.max-examples": 2500, "federation.rounds": 6}
_RESNET = {**_LESS, "model.width": 8, "train.milestones": "3,5"}
_ALONE = {**_LESS, "sharing.fraction": 0.0}
_DIRICHLET = {**_ALONE, "partition.scheme": "dirichlet", "partition.alpha": 0.1}
SETTINGS: Mapping[str, tuple[str | None, dict[str, Any]]] = {
    "quickstart": ("quickstart", _QUICK),
    "cpu-cifar10": ("cpu-cifar10", _LESS),
    "cpu-study": ("cpu-study", _LESS),
    "cifar10-iid": ("cifar10-iid", _RESNET),
    "cifar10-noniid": ("cifar10-noniid", _RESNET),
    "cifar10-noniid-share40": ("cifar10-noniid-share40", _RESNET),
    "cpu-study, no sharing": ("cpu-study", _ALONE),
    "cpu-study, shards": ("cpu-study", {**_ALONE, "partition.scheme": "shards"}),
    "cpu-study, Dirichlet 0.1": ("cpu-study", _DIRICHLET),
    "cpu-study, Dirichlet 0.1, seed 2": ("cpu-study", {**_DIRICHLET, "seed": 2}),
    "cpu-study, Dirichlet 0.1, 3 clients": ("cpu-study", {**_DIRICHLET, "federation.clients": 3}),
    "cpu-study, TRADES": ("cpu-study", {**_LESS, "loss.name": "trades"}),
    "cpu-study, CalFAT": ("cpu-study", {**_LESS, "loss.name": "calfat"}),
    "batch of 1": (None, {**_QUICK, "data.max-examples": 300, "train.batch-size": 1, "federation.rounds": 3}),
    "warm-up over 3 rounds": (None, {**_QUICK, "train.warmup": 3}),
    "torchvision:resnet18": (
        None,
        {**_QUICK, "data.max-examples": 300, "model.name": "torchvision:resnet18", "federation.rounds": 2},
    ),
}  # fmt: skip


class Onlooker:
    """An executor that looks at the replies of each round as the server does.

    Args:
        config: of the run.
        limit: with which one client lies in the last round but one; 0 for honest clients.
        about: what it lies about: ``WEIGHTS``, ``STATISTICS_ALONE`` or ``BOTH``.
    """

    def __init__(self, config: RunConfig, limit: float = 0, about: str = BOTH) -> None:
        self._executor: Executor = InProcess()
        self._weights = frozenset(name for name, _ in make_model(config, 10).named_parameters())
        self._lying_round = config.federation.rounds - 1 if limit else 0
        self._limit, self._about = limit, about
        self._default = config.strategy.update_limit
        self.replies = self.refused = self.shortened = 0
        self.needed = 0.0

    def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[Outcome]:
        """Yield the outcomes, the liar's last."""
        found: list[Outcome] = []
        training = bool(jobs) and jobs[0].message.metadata.message_type == MessageType.TRAIN
        for outcome in self._executor.run(jobs, timeout):
            found.append(outcome)
            lies = training and len(found) == 1 and _round_of(jobs[0].message) == self._lying_round
            if not lies:
                yield outcome
        if training:
            model = jobs[0].message.content.array_records["arrays"]
            self._judge(model, [reply for reply, _ in found])
            if _round_of(jobs[0].message) == self._lying_round:
                honest = [to_state(reply.content.array_records["arrays"]) for reply, _ in found[1:]]
                found[0][0].content.array_records["arrays"] = to_record(self._lie(to_state(model), honest))
                yield found[0]

    def close(self) -> None:
        """Hold nothing."""

    def _judge(self, model: ArrayRecord, replies: Sequence[Message]) -> None:
        checks, checked = ReplyChecks(model, self._weights), dict[int, Checked]()
        for client, reply in enumerate(replies):
            images = next(iter(reply.content.metric_records.values()))["num-examples"]
            checked[client] = checks.check(reply, int(images))  # type: ignore[arg-type]
        self.replies += len(checked)
        verdict = judge(checked, model, self._default)
        self.refused += len(verdict.refused)
        self.shortened += len(verdict.shortened)
        updates = [reply.update_norm for reply in checked.values()]
        self.needed = max(self.needed, max(updates) / median_low(updates))

    def _lie(self, before: State, honest: Sequence[State]) -> State:
        changes = [{name: state[name] - value for name, value in before.items()} for state in honest]
        lie = dict(honest[0])
        if self._about != STATISTICS_ALONE:
            lie |= self._about_weights(before, changes)
        if self._about != WEIGHTS:
            lie |= self._about_statistics(before, changes)
        return lie

    def _about_weights(self, before: State, changes: Sequence[State]) -> State:
        lengths = [sum(float(change[name].square().sum()) for name in self._weights) ** 0.5 for change in changes]
        mean = {name: torch.stack([change[name] for change in changes]).mean(0) for name in self._weights}
        size = sum(float(value.square().sum()) for value in mean.values()) ** 0.5
        factor = 0.99 * self._limit * median_low(lengths) / size
        return {name: before[name] - factor * value for name, value in mean.items()}

    def _about_statistics(self, before: State, changes: Sequence[State]) -> State:
        lie = {}
        for name in [name for name in before if "running_" in name]:
            shift = median_low(float(change[name].norm()) for change in changes)
            most = 0.99 * max(STATISTICS * self._limit * shift, float(before[name].norm()))
            wrong = torch.ones_like(before[name]) if name.endswith("var") else -torch.sign(before[name])
            lie[name] = before[name] + most * wrong / wrong.norm()
        return lie


def _round_of(message: Message) -> int:
    return int(str(message.content.config_records["config"]["server-round"]))


def observe(
    preset: str | None, changes: Mapping[str, Any], limit: float = 0, about: str = BOTH
) -> tuple[Onlooker, list[dict[str, Any]]]:
    """Run a federation; return its executor, and its rounds."""
    with tempfile.TemporaryDirectory() as folder:
        flat = resolve(Path(preset) if preset else None, [], default_config())
        config = parse_config(merge(flat, {**changes, "results.dir": folder}, "benchmark"))
        onlooker = Onlooker(config, limit, about)
        unlimited = parse_config(merge(config.flat(), {"strategy.update-limit": limit}, "benchmark"))
        return onlooker, read_metrics(run_federation(LocalGrid(unlimited, onlooker), unlimited))


def honest(images: str) -> None:
    """Report what honest clients need."""
    rows = []
    for name, (preset, changes) in SETTINGS.items():
        place = {"data.root": images} if changes.get("data.name") == "folder" else {}
        onlooker, _ = observe(preset, {**changes, **place})
        rows.append([name, onlooker.replies, onlooker.refused, onlooker.needed, onlooker.shortened])
        print(rows[-1], flush=True)  # noqa: T201
    columns = ["setting", "replies", "refused", "limit at which none is", "replies with shortened statistics"]
    report("update_limit_honest", columns, rows)


def liar() -> None:
    """Report what one liar does."""
    rows = []
    changes = {"threads": 1, "evaluate.attacks": "pgd-10", "evaluate.final-attacks": ""}
    for seed in (1, 2, 3):
        for limit, about in LIES:
            _, rounds = observe("quickstart", {**changes, "seed": seed}, limit, about)
            before, after = (100 * line["evaluation"]["natural"]["value"] for line in rounds[-3:-1])
            robust = [100 * line["evaluation"]["worst"]["value"] for line in rounds[-3:-1]]
            rows.append([seed, limit, about, before, after, *robust])
            print(rows[-1], flush=True)  # noqa: T201
    columns = ["seed", "limit", "about", "natural before", "after", "PGD-10 before", "after the lie"]
    report("update_limit_liar", columns, rows)


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="data/cifar10-jpeg", help="CIFAR-10 as an image folder")
    arguments = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    honest(str(Path(arguments.images).expanduser().absolute()))
    liar()


if __name__ == "__main__":
    main()
