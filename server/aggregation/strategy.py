"""FedAvg that distributes shared data, checks replies, and gives the same run for the same seed."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from common.config.tables import StrategyConfig
from common.messages.protocol import BESIDE, COUNTED, LOSS, METRICS, SERVER_ROUND, SHARED, SHARED_DIGEST
from common.messages.records import array_bytes, first_failure, to_record
from common.messages.shared_slice import shared_digest
from common.methods.checks import check_arrays, names_beside
from common.methods.method import Arrays, Method
from server.aggregation.combining import Combined
from server.aggregation.directions import Directions
from server.aggregation.fine_tuning import FineTuning
from server.aggregation.in_order import in_order
from server.aggregation.mean import RunningMean
from server.aggregation.outliers import LastRound, judge
from server.aggregation.private import PRIVACY, Privacy, PrivateMean
from server.aggregation.reply_checks import Checked, RefusedError, ReplyChecks
from server.aggregation.robust import RobustMean
from server.aggregation.root import Root
from server.aggregation.round_report import RoundReport
from server.aggregation.rules import RULES
from server.aggregation.selection import Cohort
from server.aggregation.server_optimizer import OPTIMIZERS, ServerOptimizer
from server.aggregation.whole_round import Rule
from server.network.roster import Roster

_FAR_APART = (
    "clients with few or very different images differ so much, and so do liars: start a new run with a higher "
    "strategy.update-limit (0: no comparison), or, where training diverges, a lower train.learning-rate; or continue "
    "without them with a lower federation.min-fraction"
)
Compare = Callable[[ArrayRecord, Collection[str]], Directions]
METHOD, OPTIMIZER = "method/", "optimizer/"  # before the names of what the server keeps
_DIVERGED = "training has diverged: start a new run with a lower train.learning-rate, or with train.warmup"


class SharedDataFedAvg(FedAvg):
    """FedAvg (McMahan et al. 2017, arXiv 1602.05629) with globally shared data (Zhao et al. 2018, arXiv 1806.00582).

    Or, in place of the mean, one of Flower's robust strategies; see ``server.aggregation.robust``.

    Each client receives the shared data with the first message that it answers well, and its digest with every message.
    Without shared data this is Flower's FedAvg, with replies aggregated in client order and integer buffers kept
    integers.

    One round of the default federation in this process, on 200 images and without shared data:

    >>> from common.config.flat import default_config
    >>> from common.config.schema import parse_config
    >>> from common.factory import make_federated_method, make_model, server_data
    >>> from common.messages.records import to_record
        >>> from simulations.engine.executor import InProcess
    >>> from simulations.engine.local_grid import LocalGrid
    >>> tiny = {"data.max-examples": 200, "model.width": 2, "attack.steps": 1, "train.local-epochs": 1}
    >>> config = parse_config({**default_config(), **tiny, "sharing.pool-fraction": 0.0, "sharing.fraction": 0.0})
    >>> images = tuple(server_data(config).counts.sum(axis=1).tolist())
    >>> grid, model = LocalGrid(config, InProcess()), make_model(config, classes=10)
    >>> roster = Roster(grid, config.federation, images)
    >>> roster.gather()
    >>> cohort = Cohort(size=10, min_replies=10, examples=images, seed=config.seed)
    >>> weights = dict(model.named_parameters())
    >>> method = make_federated_method(config)
    >>> strategy = SharedDataFedAvg(cohort, roster, config.strategy, None, method=method, weights=weights, engine=True)
    >>> result = strategy.start(grid, to_record(model.state_dict()), num_rounds=1)
    >>> result.arrays.keys() == model.state_dict().keys()
    True
    >>> sorted(strategy.report["clients"], key=int)
    ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']

    Args:
        cohort: the clients.
        roster: where they are.
        settings: how the replies become one model, and which are refused.
        shared: images and labels for every client, or None.
        completed_rounds: in an earlier part of the run; Flower counts from 1 again, this strategy goes on from there.
        last_round: of an earlier part of the run, if there was one.
        method: of the federation.
        rule: that sees all replies of a round, in place of the mean.
        counted: the last round of an earlier part of the run in which each client's reply was taken; 0 for none.
        losses: of each client in that round; None for none.
        kept: what the server has kept in an earlier part of the run: of the method, by ``method/NAME``, and of the
            server's optimizer or rule, by ``optimizer/NAME``.
        weights: names of the arrays that are trained.
        engine: the clients run in FedShield's own engine, and not on a network.
        fine_tune_after: the round after which the clients fine-tune the model; 0 for none.
        root: the server's own images, for the rules that judge by them.
        privacy: makes each round private; replies are then not compared, whatever ``settings`` say.
        compare: makes what compares the replies of a round for its diagnosis; None for no comparison.
    """

    def __init__(
        self,
        cohort: Cohort,
        roster: Roster,
        settings: StrategyConfig,
        shared: ArrayRecord | None,
        completed_rounds: int = 0,
        last_round: LastRound | None = None,
        *,
        method: Method,
        rule: Rule | None = None,
        counted: Sequence[int] = (),
        losses: Sequence[float | None] = (),
        kept: Arrays | None = None,
        weights: Collection[str],
        engine: bool,
        fine_tune_after: int = 0,
        root: Root | None = None,
        privacy: Privacy | None = None,
        compare: Compare | None = None,
    ) -> None:
        super().__init__(min_train_nodes=1, min_available_nodes=1)
        self.cohort = cohort
        self.roster = roster
        self.settings = settings
        self.shared = shared
        self.completed_rounds = completed_rounds
        self.report: dict[str, Any] = {}
        self.method, self._rule = method, rule
        self._root, self._privacy, self._compare = root, privacy, compare
        self.counted = [*counted] or [0] * len(cohort.examples)
        self._losses: list[float | None] = [*losses] or [None] * len(cohort.examples)
        self._asked: list[int] = []
        self._server, self._moments = (
            {name.removeprefix(whose): array for name, array in (kept or {}).items() if name.startswith(whose)}
            for whose in (METHOD, OPTIMIZER)
        )
        known = settings.name in OPTIMIZERS
        self._optimizer = ServerOptimizer(settings, frozenset(weights), self._moments) if known else None
        self._digest = shared_digest(shared) if shared is not None else None
        self._holders: set[int] = set()
        self._sent: dict[int, Message] = {}
        self._last_round = last_round
        self._checks = ReplyChecks(ArrayRecord(), frozenset(weights), engine, method.replies_beside)
        self._asked_at = 0.0
        self._fine_tune_after, self._fine_tuning = fine_tune_after, FineTuning(roster, len(cohort.examples))

    def kept(self) -> Arrays:
        """Return what the server keeps for the rounds to come; see ``kept`` above."""
        private = self._privacy.kept() if self._privacy else {}
        kept = {METHOD: self._server, OPTIMIZER: self._moments, PRIVACY: private}
        # Copies: the next round may change them in place.
        return {f"{whose}{name}": array.clone() for whose, arrays in kept.items() for name, array in arrays.items()}

    def begin_anew(self) -> None:
        """Forget the rounds before: the server's optimizer starts again, and no reply is judged by the last round."""
        self._moments.clear()
        self._last_round = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the round's clients that are connected, with the shared data for those that lack it.

        Args:
            server_round: of this part of the run, from 1.
            arrays: the global model.
            config: goes to every client; the round and the digest of the shared data are added to it.
            grid: not used: the roster has its own.
        """
        server_round += self.completed_rounds
        self.roster.meet()
        named = names_beside(self.method, arrays.keys(), self._checks.weights)
        self._checks = replace(self._checks, reference=arrays, named=named)
        config[SERVER_ROUND] = server_round
        if self._digest is not None:
            config[SHARED_DIGEST] = self._digest
        if self.method.keeps:
            config[COUNTED] = self.counted
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        if sent := self.method.sends(self._server):
            check_arrays(self.method.name, "sends", sent)
            record[BESIDE] = to_record(sent)
        with_shared = RecordDict({**record, SHARED: self.shared}) if self.shared is not None else record
        self._sent = {}
        self._asked = self.cohort.sample(server_round, self._losses)
        for client in self._asked:
            node = self.roster.node(client)
            if node is None:
                self._holders.discard(client)  # a machine that starts again may have lost it
            else:
                content = record if client in self._holders else with_shared
                self._sent[client] = Message(content, node, MessageType.TRAIN)
        self._asked_at = time.monotonic()
        return list(self._sent.values())

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the valid replies as they come, in client order; too few of them end the run."""
        server_round += self.completed_rounds
        asked = self._asked
        report = RoundReport(server_round)
        mean = self._new_mean(asked, server_round)
        combined = Combined(self.method, mean, self._checks.reference, self._optimizer, self._rule)
        directions = self._compare(self._checks.reference, self._checks.weights) if self._compare else None
        for client, reply in self._believed(self._checked(asked, replies, report), report):
            report.take(client, reply.metrics, reply.update_norm)
            if directions is not None:
                directions.add(client, reply.arrays)
            combined.add(client, reply, self.cohort.examples[client])
        for client, metrics in report.metrics.items():
            self._losses[client] = float(metrics[LOSS])  # type: ignore[arg-type]
        # A client that failed may have lost the shared data, or never received it: it is sent again.
        self.counted = [server_round if client in report.metrics else last for client, last in enumerate(self.counted)]
        self._holders = (self._holders | report.metrics.keys()) - report.refused.keys()
        self._require(report, len(asked))
        together = self.train_metrics_aggr_fn(
            [RecordDict({METRICS: record}) for record in report.metrics.values()], self.weighted_by_key
        )
        self._last_round = LastRound(report.median_norm(), float(together[LOSS]))  # type: ignore[arg-type]
        self.report = report.report(together[LOSS], self.sent_bytes())
        if directions is not None:
            self.report |= {"distrusted": sorted(report.distrusted), "signals": directions.report()}
        ruled = combined.ruled(server_round, self._checks.weights, self._moments)
        model = ruled or combined.result(server_round, self._server)
        if self._privacy:
            self.report["privacy"] = self._privacy.report(server_round)
        return model, together

    def sent_bytes(self) -> int:
        """Return how many bytes of arrays have gone out in this round."""
        return sum(array_bytes(message.content) for message in self._sent.values())

    def _require(self, report: RoundReport, asked: int) -> None:
        """End the run if a round, of so many clients, has too few valid replies."""
        report.require(self.cohort.min_replies, asked)

    def _checked(
        self, asked: list[int], replies: Iterable[Message], report: RoundReport
    ) -> Iterator[tuple[int, Checked]]:
        """Yield the replies that are well formed, in client order."""
        for client, reply in in_order(asked, self._sent, replies, self.roster.failure):
            try:
                # Twice as long as the server has waited, and a minute: clocks differ, machines sleep.
                patience = 2 * (time.monotonic() - self._asked_at) + 60
                checked = self._checks.check(reply, self.cohort.examples[client], patience)
            except RefusedError as reason:
                made_here = self._checks.engine and not reply.has_error()
                report.refuse(client, str(reason), _DIVERGED if made_here else "", not reply.has_error())
                continue
            if self._checks.engine and (failure := first_failure(reply)) is not None:
                report.retry(client, failure)
            report.receive(array_bytes(reply.content))
            yield client, checked

    def _believed(self, replies: Iterator[tuple[int, Checked]], report: RoundReport) -> Iterable[tuple[int, Checked]]:
        """Return the replies that are no outliers; for this all of them have to be there."""
        if (limit := self.settings.update_limit) == 0 or self._privacy:
            return replies
        verdict = judge(dict(replies), self._checks.reference, limit, self._last_round)
        for client, reason in verdict.refused.items():
            report.refuse(client, reason, _FAR_APART, distrusted=True)
        report.shorten(verdict.shortened)
        return verdict.believed.items()

    def _new_mean(self, asked: list[int], server_round: int) -> RunningMean | RobustMean | PrivateMean:
        """Return what takes the valid replies of a round, one by one in client order."""
        if self._privacy:
            return self._privacy.mean(self._checks.reference, server_round)
        if self.settings.name not in RULES:
            return RunningMean(sum(self.cohort.examples[client] for client in asked))
        settings, model = self.settings, self._checks.reference
        arguments = settings.name, settings.malicious, model, self._checks.weights, settings.pre, settings.clip_radius
        return RobustMean(*arguments, root=self._root, server_round=server_round)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the clients fine-tune the model after the last round; evaluations are the server's.

        Args:
            server_round: as in ``configure_train``, and so are the others.
            arrays: the global model.
            config: for the clients.
            grid: where they are.
        """
        if server_round + self.completed_rounds != self._fine_tune_after:
            return []
        config[SERVER_ROUND], config[COUNTED] = server_round + self.completed_rounds, self.counted
        return self._fine_tuning.messages(RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config}))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> None:
        """Note which clients have a model of their own now."""
        if server_round + self.completed_rounds == self._fine_tune_after:
            for client in self._fine_tuning.done(replies):
                self.counted[client] = self._fine_tune_after
