"""What a user's own network, loss, attack, method or rule is made of: the one address that does not change."""

from common.attacks.threat import Threat
from common.methods.method import Method, MethodContext, Reply, Turn
from common.methods.networks import OtherWeights
from common.models.networks import Normalize
from common.training.context import Loss, LossContext
from common.training.pull import LinearPull, Pull
from server.aggregation.selection import Candidates
from server.aggregation.whole_round import Received

__all__ = [
    "Candidates",
    "LinearPull",
    "Loss",
    "LossContext",
    "Method",
    "MethodContext",
    "Normalize",
    "OtherWeights",
    "Pull",
    "Received",
    "Reply",
    "Threat",
    "Turn",
]
