"""Which model of a run is exported: the global one, or a client's own."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save

from common.errors import FedShieldError
from common.messages.records import State
from server.personal import read_personal, require_personal
from server.run_directory.checkpoint import selected_model
from server.run_directory.index import selected_checkpoint

GLOBAL = "global"


@dataclass(frozen=True, eq=False)
class Chosen:
    """A model of a run.

    Attributes:
        round: or epoch, after which it is taken.
        state: its weights.
        sha256: of the weights in the run directory; of a client's own model, of these weights.
        client: whose it is; None for the global one.
    """

    round: int
    state: State
    sha256: str
    client: int | None = None


def choose(run_dir: Path, whose: str | None, clients: int) -> Chosen:
    """Return the model of a run that is asked for.

    Args:
        run_dir: absolute.
        whose: number of a client, or ``GLOBAL``; None where there is only one.
        clients: of the run.

    Raises:
        FedShieldError: there is no such model, or the clients have their own and it is not said whose is wanted.
    """
    if whose is None and read_personal(run_dir) is not None:
        raise FedShieldError(
            f"{run_dir}: its clients have models of their own; say whose to take: --client 0 to {clients - 1}, or "
            f"--client {GLOBAL}"
        )
    if whose in (None, GLOBAL):
        number, state = selected_model(run_dir)
        return Chosen(number, state, str((selected_checkpoint(run_dir) or {}).get("sha256")))
    if not str(whose).isdecimal() or int(str(whose)) >= clients:
        raise FedShieldError(f"--client {whose}: give a number from 0 to {clients - 1}, or {GLOBAL}")
    client, personal = int(str(whose)), require_personal(run_dir)
    if client not in personal.own:
        raise FedShieldError(
            f"--client {client}: has nothing of its own, as it was never asked; take --client {GLOBAL}"
        )
    own = personal.state(client)
    digest = hashlib.sha256(save({name: tensor.contiguous() for name, tensor in own.items()})).hexdigest()
    return Chosen(personal.round, own, digest, client)
