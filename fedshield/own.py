"""What a user's own network, loss, attack or method is made of; nothing of Flower, whose imports take longer."""

from common.attacks.threat import Threat
from common.methods.method import Method, MethodContext, Reply, Turn
from common.methods.networks import OtherWeights
from common.models.networks import Normalize
from common.training.context import Loss, LossContext
from common.training.pull import LinearPull, Pull

__all__ = [
    "LinearPull",
    "Loss",
    "LossContext",
    "Method",
    "MethodContext",
    "Normalize",
    "OtherWeights",
    "Pull",
    "Reply",
    "Threat",
    "Turn",
]
