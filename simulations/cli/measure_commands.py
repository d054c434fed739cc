"""Commands that measure the models of finished runs with attacks of other kinds, or again."""

from pathlib import Path
from typing import Annotated

import typer

from common.errors import FedShieldError
from common.paths import whole_path
from server.run_directory.reader import find_results, read_config, read_kind
from simulations.cli.options import (
    OF_MEASURING,
    RunOrStudyArgument,
    RunsArgument,
    SetOption,
    SomePath,
    TrustOption,
    finite,
    measuring,
    parse_attacks,
    parse_clients,
)
from simulations.terminal.console import console, log_to

measures = typer.Typer()


@measures.command()
def transfer(
    runs: RunsArgument,
    attack_: Annotated[str, typer.Option("--attack", help="One attack, as in evaluate.attacks.")] = "pgd-20",
    examples: Annotated[
        int, typer.Option(min=0, help="Number of test images, balanced over the classes; 0 = all.")
    ] = 1000,
    clients: Annotated[
        str | None,
        typer.Option(metavar="all|N,N,...", help="Of one run: between these clients' own models, if it has such."),
    ] = None,
    set_: SetOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Try the adversarial examples of each run's model on the models of all the runs.

    The result is a table: in each row, examples made on one model; in each column, the accuracy of one model. Each
    column is kept with its run, as by `fedshield evaluate --from`. With --clients, the models are those of a run's
    clients, and a CSV file in its directory has a line for each pair.

    fedshield transfer runs/share0 runs/share40
    fedshield transfer runs/ONE runs/OTHER runs/THIRD --attack cw-30 --examples 200
    fedshield transfer runs/NAME --clients all
    """
    log_to(console)
    changes = {**measuring(set_ or []), "evaluate.final-examples": examples}
    name = _one_attack(attack_)
    for path in (paths := [find_results(run) for run in runs]):
        read_config(path)  # what follows takes seconds to import
    if clients is not None:
        from simulations.client_transfer import between_clients

        if len(paths) != 1:
            raise FedShieldError(f"--clients {clients}: {len(paths)} runs given; name the one whose clients are meant")
        sheet, file = between_clients(paths[0], name, changes, parse_clients(clients), trust_code)
        console.print(sheet.rich(console.width))
        console.print(file)
        return
    from simulations import transfer as transfers

    console.print(transfers.transfer(paths, name, changes, trust_code).rich(console.width))


@measures.command()
def verify(
    run_or_study: RunOrStudyArgument,
    tolerance: Annotated[
        float,
        typer.Option(min=0, max=100, callback=finite, help="Percentage points by which a figure may differ."),
    ] = 0.5,
    set_: SetOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Measure the models of a run or a study again, and compare with the figures that are claimed for them.

    Nothing is written. The exit status is 1 if a figure differs by more than the tolerance.

    fedshield verify runs/NAME
    fedshield verify theirs/cpu-benchmark --set data.root=data/cifar10-jpeg --trust-code
    """
    log_to(console)
    changes = measuring(set_ or [])
    path = find_results(run_or_study)
    from simulations.verify import verify as measure_again

    found = measure_again(path, changes, tolerance, trust_code)
    console.print(found.sheet.rich(console.width))
    if found.wrong:
        raise FedShieldError("\n".join(found.wrong))


@measures.command()
def privacy(
    run_or_study: RunOrStudyArgument,
    examples: Annotated[
        int,
        typer.Option(
            min=0, help="Images of each group, and as many test images of the same classes; 0 = all there are."
        ),
    ] = 500,
    shadows: Annotated[
        int, typer.Option(min=0, help="Shadow models that LiRA trains, an even number; 0 leaves LiRA out.")
    ] = 4,
    set_: SetOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Measure how well an attacker tells the images that a run's model was trained on from images it never saw.

    Membership inference by the model's loss, by its loss on adversarial examples and by LiRA, against the images of the
    pool that were shared and against the clients' own. The result is also written into privacy.json in the run's
    directory, for its report, its model card and its study. Of a study, all finished runs are measured that were not
    before, and its results.csv is written again.

    fedshield privacy runs/NAME
    fedshield privacy runs/cpu-privacy --shadows 0                   all runs of a study
    fedshield privacy runs/NAME --shadows 0                          without LiRA: in seconds
    fedshield privacy runs/NAME --examples 1000 --set data.root=/where/they/are/now
    """
    log_to(console)
    changes = measuring(set_ or [], OF_MEASURING)
    path = find_results(run_or_study)
    from simulations.studies.membership import is_study, measure_study

    if is_study(path):
        console.print(f"Results: {measure_study(path, changes, examples, shadows, trust_code)}")
        console.print(f"Tables and figures with: fedshield tables {path}")
        return
    read_config(path)  # what follows takes seconds to import
    from server.membership import measure_privacy
    from simulations.reports.privacy import privacy_sheet

    record, file = measure_privacy(path, changes, examples, shadows, trust_code)
    if sheet := privacy_sheet(record, read_kind(path).unit):
        console.print(sheet.rich(console.width))
    console.print(file)


@measures.command()
def attack(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            click_type=SomePath(),
            metavar="CHECKPOINT",
            help="A run directory, its name in results.dir, or a model.safetensors from fedshield export.",
        ),
    ],
    images: Annotated[
        list[Path], typer.Argument(click_type=SomePath(), metavar="IMAGE ...", help="Images of any size.")
    ],
    attack_: Annotated[str, typer.Option("--attack", help="One attack, as in evaluate.attacks.")] = "pgd-20",
    epsilon: Annotated[
        float | None,
        typer.Option(min=0, max=255, callback=finite, help="Linf radius, in 1/255. Default: 8 if the attack has one."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Class of the images. Default: the name of their folder, or the model's prediction."),
    ] = None,
    out: Annotated[
        Path, typer.Option(click_type=SomePath(), metavar="DIR", help="Folder for the attacked images.")
    ] = Path("attacked"),
    trust_code: TrustOption = False,
) -> None:
    """Show what an attack does to your own images.

    fedshield attack runs/NAME cat.jpg dog.png
    fedshield attack model/model.safetensors pictures/cat/*.jpg --attack autoattack --epsilon 4
    """
    log_to(console)
    from common.attacks.threat import doubted_radius
    from simulations.attack_images import attack_pictures, table, write_pictures
    from simulations.reports.sheets import whole

    name = _one_attack(attack_)
    if epsilon is not None and (doubt := doubted_radius("--epsilon", epsilon)):
        console.print(f"warning: {doubt}")
    found = attack_pictures(find_results(checkpoint), images, name, epsilon, label, trust_code=trust_code)
    console.print(whole(table(found), console.width, names=4))
    for path in write_pictures(found, name, whole_path(out)):
        console.print(path)


def _one_attack(text: str) -> str:
    if len(names := parse_attacks("--attack", text)) != 1:
        raise FedShieldError(f"--attack {text}: give one attack, as in --attack pgd-20x5")
    return names[0]
