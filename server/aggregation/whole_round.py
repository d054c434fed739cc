"""Rules that see all replies of a round at once, and what the clients said of their losses: q-FedAvg, a user's own."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import QFedAvg

from common.config.tables import StrategyConfig
from common.errors import DeadEndError
from common.messages.protocol import ARRAYS, LOSS, METRICS, NUM_EXAMPLES
from common.messages.records import State, to_record, to_state
from common.methods.checks import check_arrays
from common.methods.method import Reply
from common.user_code import explain_user_code, is_user_code, load_user_code
from server.aggregation.mean import RunningMean

KEY = "strategy.name"


@dataclass(frozen=True)
class Received:
    """The valid replies of a round, in client order.

    Attributes:
        server_round: from 1.
        replies: each with ``client``, ``examples`` (images) and ``loss`` (mean training loss of its last epoch).
        models: the clients' models, by names of the state dict.
        before: the global model that they were trained from.
        weights: names of the arrays that are trained; the others are statistics and counters.
        kept: what the rule has kept from the rounds before; it may change it. It is in the checkpoint.
    """

    server_round: int
    replies: Sequence[Reply]
    models: Sequence[State]
    before: State
    weights: Collection[str]
    kept: State = field(default_factory=dict)

    def mean(self, shares: Sequence[float] | None = None) -> State:
        """Return the mean of the models, in which counters stay integers.

        Args:
            shares: how much each reply counts, 0 or more, not all 0; its images if not given.
        """
        shares = [reply.examples for reply in self.replies] if shares is None else shares
        mean = RunningMean(sum(shares))
        for model, share in zip(self.models, shares, strict=True):
            mean.add(to_record(model), share)
        return to_state(mean.result())


Rule = Callable[[Received], State]


def find_rule(settings: StrategyConfig, learning_rate: float) -> Rule | None:
    """Return the rule of a strategy; None for one that is not of this kind.

    Args:
        settings: ``strategy.*``.
        learning_rate: of the clients, > 0.

    Raises:
        FedShieldError: the user's file is not there, or raises.
    """
    if settings.name == "qfedavg":
        return partial(q_fedavg, settings.q, learning_rate)
    return partial(_own, settings.name, load_user_code(KEY, settings.name)) if is_user_code(settings.name) else None


def q_fedavg(q: float, learning_rate: float, received: Received) -> State:
    """q-FedAvg (Li et al. 2020, arXiv 1905.10497, algorithm 2): who has a high loss counts more.

    With L = 1 / η, Δ_k = L (w − w_k) and F_k the loss of client k: w − Σ F_k^q Δ_k / Σ (q F_k^(q−1) ‖Δ_k‖² + L F_k^q).
    The arithmetic is Flower's; the authors' (github.com/litian96/fair_flearn) is the same. It changes weights alone;
    statistics are the mean. Every client counts alike, so q = 0 is the plain mean of the clients.

    There, F_k is the loss of the global model, which would cost a pass over all images. As in Flower, it is the
    training loss that the client reports; a negative one counts as 0.

    Args:
        q: how much fairness counts, >= 0.
        learning_rate: η of the clients.
        received: the replies.
    """
    names = [name for name in received.before if name in received.weights]
    strategy = QFedAvg(client_learning_rate=learning_rate, q=q, train_loss_key=LOSS)
    strategy.current_arrays = to_record({name: received.before[name] for name in names})
    messages = []
    for reply, model in zip(received.replies, received.models, strict=True):
        arrays = to_record({name: model[name] for name in names})  # a copy: Flower computes in place
        metrics = MetricRecord({NUM_EXAMPLES: reply.examples, LOSS: max(reply.loss, 0.0)})
        messages.append(Message(RecordDict({ARRAYS: arrays, METRICS: metrics}), 1, MessageType.TRAIN))
    found, _ = strategy.aggregate_train(received.server_round, messages)
    moved, mean = to_state(found or ArrayRecord()), received.mean()
    if wild := [name for name, array in moved.items() if not array.isfinite().all()]:
        raise DeadEndError(
            f"{KEY} = qfedavg: its step gives {wild[0]} with values that are not finite; lower strategy.q"
        )
    return {name: moved[name].to(value.dtype) if name in moved else value for name, value in mean.items()}


def _own(name: str, rule: Rule, received: Received) -> State:
    """Return what a user's rule makes of the replies, once it is a model like the one before."""
    before, *models = [
        {key: array.clone() for key, array in model.items()} for model in (received.before, *received.models)
    ]
    with explain_user_code(KEY, name):
        model = rule(replace(received, models=models, before=before))
    check_arrays(name, "the rule", model, received.before, KEY)
    check_arrays(name, "kept", received.kept, key=KEY)
    return {key: model[key] for key in received.before}
