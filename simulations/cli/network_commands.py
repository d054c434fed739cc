"""Commands for real clients over a network: divide the data, make certificates, admit clients, start a run."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from common.config.flat import default_config
from common.config.schema import parse_config
from common.paths import whole_path
from simulations.cli.options import (
    AuthorityOption,
    FileArgument,
    SetOption,
    SomePath,
    SuperlinkOption,
    WaitOption,
    resolve,
)
from simulations.places import refuse_results
from simulations.terminal.console import console, log_to

network = typer.Typer()


@network.command(name="split-data")
def split_data(
    out: Annotated[Path, typer.Option(click_type=SomePath(), metavar="DIR", help="Where to write the directories.")],
    file: FileArgument = None,
    set_: SetOption = None,
) -> None:
    """Divide a dataset into directories: one for the server and one for each client, to send to them.

    The division is the same as in a simulation with the same file and keys. Each directory holds only its own images.

    fedshield split-data cpu-cifar10 --out federation
    fedshield run cpu-cifar10 --set data.name=split --set data.root=federation    the same figures
    """
    log_to(console)
    config = parse_config(resolve(file, set_ or [], default_config()))
    from common.data.cuts import training_images, unused_images
    from common.data.server_data import describe_partition
    from common.data.split_directories import write_split
    from common.factory import prepare_data
    from server.notices import tell_rare_classes

    folder = whole_path(out)
    refuse_results(folder)
    splits, division = prepare_data(config)
    for place in write_split(splits, division, folder):
        console.print(place)
    described = describe_partition(splits.train, division)
    tell_rare_classes(described, config)
    if config.data.keeps_class_mirrored is False:
        console.print(
            f"Runs on these directories need train.flip=off: a mirrored image of {config.data.name} is another"
        )
    left = unused_images(described)
    cut = f"; {left:,} go to nobody (data.max-examples=0 divides all)" if left else ""
    console.print(f"Training images: {training_images(described)} are divided{cut}")
    whole = shlex.quote(str(folder))
    given = f" {shlex.quote(str(file))}" if file else ""
    again = "".join(f" --set {shlex.quote(each)}" for each in set_ or [])
    console.print("Next, here as a simulation, or with real clients and their keys:")
    console.print(f"  fedshield run{given}{again} --set data.name=split --set data.root={whole}")
    console.print(f"  fedshield certs --out {whole} --clients {config.federation.clients} --host HOST")


@network.command()
def certs(
    out: Annotated[
        Path,
        typer.Option(
            click_type=SomePath(), metavar="DIR", help="Where to write. Existing CA, keys and hosts are kept."
        ),
    ],
    clients: Annotated[int, typer.Option(min=1, help="Number of clients.")] = 10,
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name or address at which clients reach the server; can be repeated."),
    ] = None,
) -> None:
    """Make certificates and keys for a federation over a network: for a CA, the server and each client.

    Private keys get the mode 0600. Give each client its own folder and nothing else. DIR can be the one of split-data.

    fedshield certs --out federation --clients 10 --host fl.example.org
    """
    from simulations.deployment.certificates import make_certs

    hosts = list(dict.fromkeys([*(host or []), "superlink", "gateway", "localhost", "127.0.0.1"]))
    folder = whole_path(out)
    refuse_results(folder)
    for path in make_certs(folder, clients, hosts):
        console.print(path)
    for line in _next(folder, clients, (host or ["HOST"])[0]):
        console.print(line)


def _next(folder: Path, clients: int, host: str) -> list[str]:
    """Return the commands that come after the certificates, with their paths."""
    from common.data.split_directories import MANIFEST

    keys, authority, place = (
        shlex.quote(str(path)) for path in (folder / "operator/clients", folder / "ca.crt", folder)
    )
    scheme = "" if clients == 10 else " --set partition.scheme=dirichlet"  # the default one is for ten clients
    divide = f"  fedshield split-data --out {place} --set federation.clients={clients}{scheme}"
    undivided = ["Next: divide the images, if the clients have none of their own yet, as in:", divide]
    return [
        *([] if (folder / "server" / MANIFEST).exists() else undivided),
        f"Next: give {folder / 'client-0'} to client 0, and so on; start the SuperLink (docs/deployment.md), then:",
        f"  fedshield register {keys} --superlink localhost:8000 --ca {authority}",
        f"  fedshield submit --superlink localhost:8000 --ca {authority} --set data.name=split --set data.root={place} "
        f"--set federation.clients={clients}",
        f"On the host of client 0, in the folder that it was given, where the clients reach {host}:8443:",
        f"  fedshield-supernode --superlink {host}:8443 --root-certificates ca.crt --auth-supernode-private-key "
        f"client.key --node-config 'partition-id=0 num-partitions={clients} data-path=\".\"'",
    ]


@network.command()
def register(
    keys: Annotated[
        Path, typer.Argument(click_type=SomePath(), metavar="DIR", help="Folder of public keys: N.pub for client N.")
    ],
    superlink: SuperlinkOption,
    ca: AuthorityOption = None,
    wait: WaitOption = 60,
) -> None:
    """Admit clients to a federation: register their public keys with its SuperLink, each under its client's name.

    Whoever connects with the key of client 3 is client 3, and cannot take the place of another client.

    fedshield register federation/operator/clients --superlink localhost:8000 --ca federation/ca.crt
    """
    log_to(console)
    from simulations.deployment.flower_control import Control
    from simulations.deployment.register import register as register_there

    for key in register_there(Control(superlink, ca), whole_path(keys), wait):
        console.print(key)


@network.command()
def submit(
    superlink: SuperlinkOption,
    file: FileArgument = None,
    set_: SetOption = None,
    ca: AuthorityOption = None,
    app_: Annotated[
        Path | None,
        typer.Option(
            "--app", click_type=SomePath(), metavar="DIR", help="A checkout of FedShield. Default: what runs now."
        ),
    ] = None,
    wait: WaitOption = 60,
) -> None:
    """Run a federation of real clients: send the app to a SuperLink and follow the run to its end.

    If the run fails, the exit status is not 0. (That of flwr run is.)

    fedshield submit --superlink localhost:8000 --ca federation/ca.crt my.toml
    """
    log_to(console)
    from simulations.deployment.app_folder import app_folder
    from simulations.deployment.flower_control import Control
    from simulations.deployment.flower_control import submit as run_there

    settings = parse_config(resolve(file, set_ or [], default_config())).flat()
    with app_folder(app_, settings) as app:
        run_there(settings, Control(superlink, ca), app, console, wait)
