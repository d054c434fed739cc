"""The report of a run, finished or not, from its directory alone."""

from collections.abc import Sequence
from pathlib import Path

from common.config.flat import Flat, default_config
from common.data.cuts import tested_images, training_images, unused_images
from server.run_directory.privacy import read_privacy
from server.run_directory.reader import (
    DEPLOYED,
    Kind,
    lost_rounds,
    read_config,
    read_described_partition,
    read_environment,
    read_kind,
    read_metrics,
    read_summary,
)
from simulations.reports.accuracy import NO_ATTACK, Record, bracket, tell_chance
from simulations.reports.beside import tell_corruptions, tell_epsilon
from simulations.reports.figures.run_figures import accuracy_figure
from simulations.reports.headline import (
    OF_THE_PLACE,
    dataset_name,
    last_round,
    read_headline,
    threat_label,
    told_weights,
    training,
)
from simulations.reports.html.client_blocks import clients, labels, own_models, refusals, shared_slice
from simulations.reports.html.evaluation_blocks import attacks, classes, corrupted, curve, percent
from simulations.reports.html.page import Block, Code, Fact, Page, Section, Table, Text, charts, of_sheet
from simulations.reports.html.picture_blocks import gallery, predictions
from simulations.reports.html.trouble_blocks import troubles
from simulations.reports.privacy import TITLE, privacy_sheet
from simulations.reports.repeat import ABOUT_REAL_CLIENTS, repeat
from simulations.reports.study_tables import ROUGH

HOW_TO_READ = (
    "Robust accuracy is the share of test images that a model classifies correctly under attack; in the worst case an "
    "image counts only if no attack of any kept evaluation breaks it. The attacks see the model (white box; one named "
    "'from' another run sees that run's model instead) and change each pixel of the [0, 1] range by at most epsilon "
    "(Linf), or the whole image by at most that length (L2). It is an upper bound: a stronger attack may leave less. "
    "Brackets are 95 % Wilson intervals for the sample of test images (Student's t for means over corruptions); they "
    "say nothing of how another training seed would come out."
)
_FLOPS = "a multiply-add is two"


def run_page(run_dir: Path) -> Page:
    """Gather a run's report.

    Args:
        run_dir: absolute.

    Raises:
        FedShieldError: a file is damaged, or there is no run.
    """
    config, kind = read_config(run_dir), read_kind(run_dir)
    metrics, summary, headline = read_metrics(run_dir), read_summary(run_dir), read_headline(run_dir)
    final, arrays = headline.figures, headline.arrays
    described = read_described_partition(run_dir)
    partition = described if kind.name == "federation" else {}
    environment = read_environment(run_dir)
    threat = {key: final.get(key, config[f"attack.{key}"]) for key in ("norm", "epsilon-255")}
    unit = kind.unit
    return Page(
        title=run_dir.name,
        lead=_lead(config, kind, metrics, environment, described),
        facts=[
            *_facts(final, threat_label(final, config), unit, summary, described),
            *_training(described),
            *_given(environment),
            *([Fact("privacy", *spent)] if (spent := tell_epsilon(metrics)) else []),
        ],
        warnings=[
            *_unfinished(run_dir, config, kind, metrics, summary, final),
            *_lost(lost_rounds(run_dir)),
            *final.get("warnings", ()),
        ],
        sections=[
            Section("Troubles of training", troubles(metrics, unit)),
            Section(f"Accuracy over {unit}s", _rounds(run_dir, metrics)),
            Section("Accuracy per attack", attacks(final)),
            Section("Accuracy per class", classes(final)),
            Section("Robust accuracy over epsilon", curve({**final, **threat}, unit)),
            Section("Accuracy under common corruptions", corrupted(final)),
            Section("Predictions under attack", predictions(arrays)),
            Section("Adversarial examples", gallery(arrays)),
            Section("Clients", [*clients(metrics, partition, final), *own_models(final), *refusals(metrics)]),
            Section("Who has which classes", [*labels(partition), *shared_slice(partition)]),
            Section(TITLE, of_sheet(privacy_sheet(read_privacy(run_dir), unit))),
            Section("What differs from the defaults", [difference_table(config)]),
            Section("Environment, and the command that repeats it", _environment(environment, metrics, kind, config)),
            Section("How to read this", [Text(HOW_TO_READ)]),
        ],
    )


def _lead(config: Record, kind: Kind, metrics: Sequence[Record], environment: Record, described: Record) -> str:
    number = last_round(metrics)
    done = f"{number} {kind.unit}{'' if number == 1 else 's'}"
    who = (
        f"{config['federation.clients']} clients, partition {config['partition.scheme']}"
        if kind.name == "federation"
        else "one party with all images"
    )
    device = environment.get("processor" if environment.get("device") == "cpu" else "device", "")
    how = training(config)
    what = f"{how[0].upper()}{how[1:]} of {config['model.name']} on {dataset_name(config)}"
    what += f" ({used} training images)" if (used := training_images(described)) else ""
    return f"{what}: {who}, {done}, seed {config['seed']}{f', on {device}' if device else ''}."


def _training(described: Record) -> list[Fact]:
    """Return how many of the training images were used, where that is known."""
    cut = "" if not unused_images(described) else "data.max-examples leaves out the others"
    return [Fact("training images", told, cut)] if (told := training_images(described)) else []


def _given(environment: Record) -> list[Fact]:
    """Return with which weights the run began, where they were given."""
    told = environment.get("weights")
    return [Fact("began with weights of", told_weights(told), f"SHA-256 {told['sha256'][:16]}…")] if told else []


def _facts(final: Record, epsilon: str, unit: str, summary: Record, described: Record) -> list[Fact]:
    if not final:
        return []
    chosen = "chosen on validation images" if summary.get("selected-by") == "validation" else "the last one"
    against = ", ".join(final["robust"])
    detail = "; ".join([bracket(final["natural"]["interval"]), *tell_chance(final, described)])
    facts = [Fact("natural accuracy", percent(final["natural"]), detail)]
    if against:
        detail = f"{bracket(final['worst']['interval'])}, worst case of {against} at epsilon {epsilon}"
        facts.append(Fact("robust accuracy", percent(final["worst"]), detail))
    else:
        facts.append(Fact("robust accuracy", "–", NO_ATTACK))
    if known := final.get("corruptions"):
        detail = f"{bracket(known['mean']['interval'])}, {tell_corruptions(final)}"
        facts.append(Fact("accuracy on corrupted images", percent(known["mean"]), detail))
    rough = f"{ROUGH:,} or fewer: rough figures" if final["n"] <= ROUGH else ""
    facts.append(Fact("test images", f"n = {tested_images(final['n'], described)}", rough))
    facts.append(Fact("model", f"{unit} {final.get('round', '–')}", chosen if summary else "the last one measured"))
    return facts


def _unfinished(
    run_dir: Path, config: Record, kind: Kind, metrics: Sequence[Record], summary: Record, final: Record
) -> list[str]:
    if summary:
        return []
    figures = f"the figures are those of {kind.unit} {final['round']}" if final else "nothing was evaluated yet"
    done, total, again = last_round(metrics), config[kind.length], kind.again(run_dir)
    return [f"This run is unfinished, {done} of {total} {kind.unit}s are done: {figures}. Continue with: {again}"]


def _lost(odd: str) -> list[str]:
    return [f"{odd}: the curves, the clients' work and the time do not cover the whole run."] if odd else []


def _rounds(run_dir: Path, metrics: Sequence[Record]) -> list[Block]:
    evaluated = any(line.get("evaluation") for line in metrics)
    return charts(accuracy_figure({run_dir.name: run_dir})) if evaluated else []


def difference_table(config: Record) -> Block:
    """Return the keys of a configuration that have other values than the defaults."""
    rows = [
        [key, str(config.get(key)), str(default)]
        for key, default in default_config().items()
        if config.get(key, default) != default and not key.startswith(OF_THE_PLACE)
    ]
    if not rows:
        return Text("Nothing: this is the quickstart.")
    return Table(["key", "here", "default"], rows, 3)


def _environment(environment: Record, metrics: Sequence[Record], kind: Kind, config: Flat) -> list[Block]:
    model = environment.get("model", {})
    seconds = sum(line["seconds"] for line in metrics)
    known = {
        "time": f"{seconds / 60:.1f} minutes of training and evaluation",
        "device": environment.get("device"),
        "processor": environment.get("processor"),
        "cores": environment.get("cores"),
        "threads": environment.get("threads"),
        "precision of the training attack": environment.get("attack-precision"),
        "system": environment.get("system"),
        "Python": environment.get("python"),
        "model": model and f"{model['parameters']:,} parameters, {model['flops']:.3g} FLOPs an image ({_FLOPS})",
        "packages": ", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items()),
        "started by": environment.get("command"),
    }
    rows = [[key, str(value)] for key, value in known.items() if value]
    rows += [
        [f"resumed after {kind.unit} {each.get('after')}", _changes(each)] for each in environment.get("resumed", ())
    ]
    notes = [Text(ABOUT_REAL_CLIENTS)] if kind == DEPLOYED else []
    return [Table(["", ""], rows, 2), *notes, Code("\n".join(repeat(kind, config, environment)))]


def _changes(each: Record) -> str:
    """Say what had changed when a run was resumed."""
    return "; ".join(f"{key}: {value}" for key, value in each.items() if key != "after") or "no changes"
