"""The methods by name."""

from common.errors import DeadEndError
from common.methods.checks import explain_hooks
from common.methods.dbfat import DBFAT
from common.methods.ditto import Ditto
from common.methods.fedbn import FedBN
from common.methods.feddyn import FedDyn
from common.methods.feddynat import FedDynAT
from common.methods.fedper import FedPer
from common.methods.fedprox import FedProx
from common.methods.fedrbn import FedRBN
from common.methods.fedrep import FedRep
from common.methods.method import Method, MethodContext
from common.methods.mixfat import MixFAT
from common.methods.moon import MOON
from common.methods.scaffold import Scaffold
from common.methods.sfat import SFAT
from common.user_code import explain_user_code, is_user_code, load_user_code

KEY = "method.name"


def build_method(name: str, context: MethodContext) -> Method:
    """Return a method.

    Args:
        name: a key of ``METHODS``, or ``FILE.py:NAME`` of a subclass of ``Method``.
        context: what it may need of the run.

    Raises:
        FedShieldError: the user's file is not there, raises, or names something else than a ``Method``; or it has
            personal models that are not kept.
    """
    make = load_user_code(KEY, name) if is_user_code(name) else METHODS[name]
    with explain_user_code(KEY, name):
        method = make(context)
    if not isinstance(method, Method):
        raise DeadEndError(f"{KEY} = {name}: gives {type(method).__name__}; name a subclass of Method")
    if method.personal and not method.keeps:
        raise DeadEndError(f"{KEY} = {name}: has personal = True, so clients keep something; set keeps = True too")
    method.name = name
    explain_hooks(KEY, method)
    return method


METHODS: dict[str, type[Method]] = {
    "fedavg": Method,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "feddyn": FedDyn,
    "feddynat": FedDynAT,
    "moon": MOON,
    "mixfat": MixFAT,
    "dbfat": DBFAT,
    "sfat": SFAT,
    "fedbn": FedBN,
    "fedper": FedPer,
    "fedrep": FedRep,
    "ditto": Ditto,
    "fedrbn": FedRBN,
}
