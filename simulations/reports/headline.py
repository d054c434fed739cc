"""The headline figures of a run, finished or not, and how they are written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.attacks.threat import LINF, radius
from common.evaluation.results import Evaluation
from common.user_code import is_user_code
from server.run_directory.index import selected_checkpoint
from server.run_directory.reader import (
    read_config,
    read_described_partition,
    read_evaluations,
    read_metrics,
    read_predictions,
    read_summary,
)
from simulations.reports.accuracy import Record, bracket, share
from simulations.reports.beside import BESIDE
from simulations.reports.union import (
    Arrays,
    Together,
    figures_of,
    known_of,
    name_images,
    put_together,
    same_images,
)

CURVE = "the curve "  # how the warnings about a curve begin
OF_THE_PLACE = ("results.", "data.root", "sharing.root")  # keys that say where a run is, not what it computes
APART = (
    "evaluations that share no known images (no predictions are kept, or by an earlier version) cannot be put together "
    "image by image: the lowest worst case is the headline"
)


@dataclass(frozen=True, eq=False)
class Headline:
    """What is known of a run's model.

    Attributes:
        figures: as ``Evaluation.as_json`` has them, with ``round``; empty where nothing was measured. ``others`` are
            evaluations of the same model on other images, with ``known``: their worst case less what others broke.
            ``threats`` are those within another radius or norm, put together for each of these alone.
        evaluation: the same example by example; None where no predictions are kept.
        arrays: predictions and example images of the strongest evaluation; empty where they are not kept.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    arrays: Arrays = field(default_factory=dict)


def read_headline(run_dir: Path) -> Headline:
    """Return the headline of a run: the worst case over all kept evaluations of its final model.

    These are the final one and those that ``fedshield evaluate`` made of the same weights and threat. An image that one
    of them has broken counts as broken. The headline is on the images of the strongest of them; see ``union``. Of
    evaluations without an attack, where there is no other, it is the one with the most images. The curve over epsilon
    and the distortions come from the strongest or else the fullest that has them, with their own ``n``. Without any
    evaluation, the figures are those of the last round that was evaluated. Evaluations within another radius or norm
    are never put together with these.

    Args:
        run_dir: absolute.

    Raises:
        FedShieldError: a file is damaged.
    """
    own, *others = _by_threat(run_dir)
    headline = _headline(run_dir, own, [record for records in (own, *others) for record in records])
    threats = [_headline(run_dir, records).figures for records in others if any(each["robust"] for each in records)]
    return replace(headline, figures={**headline.figures, **({"threats": threats} if threats else {})})


def _headline(run_dir: Path, records: Sequence[Record], every: Sequence[Record] = ()) -> Headline:
    """Return the headline of evaluations within one threat; what none depends on is from ``every`` evaluation."""
    if not records:
        evaluated = [line for line in read_metrics(run_dir) if line["evaluation"]]
        return Headline({**evaluated[-1]["evaluation"], "round": evaluated[-1]["round"]} if evaluated else {})
    kept = name_images([(record, read_predictions(run_dir, record)) for record in records])
    attacked = [each for each in kept if each.record["robust"]]
    if not attacked:
        best = max(reversed(kept), key=lambda each: int(each.record["n"]))
        return Headline(_with_parts(best.record, records, every), best.evaluation if best.arrays else None, best.arrays)
    first, *rest = put_together(attacked)
    counts = read_described_partition(run_dir).get("clients")
    figures = _with_parts(figures_of(first, np.array(counts, np.int64) if counts else None), records, every)
    if others := _others(first, [first, *rest]):
        figures |= {"others": others, "apart": bool(rest)}
    return Headline(figures, first.evaluation, first.strongest.arrays)


def read_figures(run_dir: Path) -> dict[str, Any]:
    """Return the figures of ``read_headline``."""
    return read_headline(run_dir).figures


def known_final(run_dir: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the final evaluation of a finished run, its worst case less the images that later evaluations broke.

    So the runs of a study stay comparable: all are measured on the same images.

    Args:
        run_dir: absolute.

    Returns:
        The figures, and the attacks of those later evaluations, as far as they are others.

    Raises:
        FedShieldError: a file is damaged.
    """
    final: dict[str, Any] | None = read_summary(run_dir)["final"]
    records = [record for record in _by_threat(run_dir)[0] if record["robust"]]
    if not final or not final["robust"] or len(records) < 2:
        return final, []
    kept = name_images([(record, read_predictions(run_dir, record)) for record in records])
    (group,) = (each.group for each in put_together(kept) if kept[0] in each.group)
    if not (worst := known_of(kept[0], group)):
        return final, []
    more = dict.fromkeys(label for each in group for label in each.record["robust"] if label not in final["robust"])
    return {**final, "worst": worst.as_json()}, list(more)


def _by_threat(run_dir: Path) -> list[list[dict[str, Any]]]:
    """Return the evaluations of the final weights, the final one first; apart for each threat, the run's first."""
    summary, config = read_summary(run_dir), read_config(run_dir)
    number = summary["evaluated-round"] if summary else (selected_checkpoint(run_dir) or {}).get("round")
    final = [{**summary["final"], "round": number}] if summary.get("final") else []
    found: dict[tuple[str, float], list[dict[str, Any]]] = {_threat({}, config): []}
    for record in [*final, *read_evaluations(run_dir)]:
        # Those of a round before are of another model: that of an earlier end, or of a best one that was outdone.
        if record["round"] == number:
            found.setdefault(_threat(record, config), []).append(record)
    return list(found.values())


def _threat(record: Record, config: Mapping[str, Any]) -> tuple[str, float]:
    """Return the norm and radius within which an evaluation attacked; what it does not tell is as in the configuration.

    Evaluations that tell the radius alone are of a version that knew only Linf.
    """
    if "epsilon-255" not in record:
        return str(config["attack.norm"]), float(config["attack.epsilon-255"])
    return str(record.get("norm", LINF)), float(record["epsilon-255"])


def threat_label(figures: Record, config: Mapping[str, Any]) -> str:
    """Write the radius and norm within which figures were measured, as ``radius`` does."""
    norm, epsilon = _threat(figures, config)
    return radius(epsilon, norm)


def _with_parts(figures: Record, records: Sequence[Record], every: Sequence[Record]) -> dict[str, Any]:
    """Add what other evaluations alone have: the curve, distortions, corruptions, and whose examples they tried."""
    found = dict(figures)
    sources = [source for record in records for source in record.get("from", ())]
    if sources:
        found["from"] = list({(source["name"], source["sha256"]): source for source in sources}.values())
    for part in ("curve", "distortions", "personal", *BESIDE):
        if having := [record for record in (every if part in BESIDE else records) if record.get(part)]:
            if part == "corruptions":  # one kind, looked at later, does not take the place of all
                source = max(reversed(having), key=lambda record: (len(record["corruptions"]["kinds"]), record["n"]))
            else:
                source = figures if figures.get(part) else max(reversed(having), key=lambda record: int(record["n"]))
            found |= {part: source[part], f"{part}-n": source["n"]}
            if part == "curve":  # what is wrong with it goes where it goes
                own = figures.get("warnings", [])
                told = [line for line in source.get("warnings", ()) if line.startswith(CURVE) and line not in own]
                found["warnings"] = [*own, *told]
    return found


def _others(first: Together, all_of_them: Sequence[Together]) -> list[dict[str, Any]]:
    """Return the evaluations on other images than the headline's, those that were repeated once."""
    found: dict[object, dict[str, Any]] = {}
    for together in all_of_them:
        for each in together.group:
            if each is first.strongest or same_images(each, first.strongest):
                continue
            known = known_of(each, together.group)
            record = {**each.record, "known": known.as_json() if known else each.record["worst"]}
            found[each.record.get("predictions") or id(each)] = record
    return list(found.values())


def tell_others(figures: Record) -> list[str]:
    """Say what stands below a headline: what else counts in it, and each evaluation on other images."""
    told = []
    if count := figures.get("broken-elsewhere"):
        told.append(f"the worst case counts {count:,} more of these images as broken, by attacks on a part of them")
    told += [f"another evaluation of this model: {tell_other(record)}" for record in figures.get("others", ())]
    told += [APART] if figures.get("apart") else []
    return [*told, *tell_threats(figures), *tell_sources(figures)]


def tell_threats(figures: Record) -> list[str]:
    """Say what is left within each other radius or norm in which the model was evaluated."""
    return [
        f"within another threat, {threat_label(record, {})}: {tell_left(record)}"
        for record in figures.get("threats", ())
    ]


def tell_sources(figures: Record) -> list[str]:
    """Say what an attack's label means that ends with the name of another run."""
    return [
        f"from {source['name']}: the examples were made on the model of that run (SHA-256 {source['sha256'][:12]}…)"
        for source in figures.get("from", ())
    ]


def tell_other(record: Record) -> str:
    """Say what attacks on other images left, and how many of these nothing has broken."""
    known = record["known"]
    if known["value"] == record["worst"]["value"]:
        return tell_left(record)
    return f"{tell_left(record)}; with all attacks, {share(known['value'])} % {bracket(known['interval'])}"


def tell_left(record: Record) -> str:
    """Say what the attacks of an evaluation have left together."""
    worst = record["worst"]
    left = f"{share(worst['value'])} % {bracket(worst['interval'])}"
    return f"{', '.join(record['robust'])} on n = {record['n']:,}: {left}"


def last_round(metrics: Sequence[Mapping[str, Any]]) -> int:
    """Return how many rounds, or epochs, a run has done, from the lines of its ``metrics.jsonl``."""
    return max((line["round"] for line in metrics), default=0)


def dataset_name(config: Mapping[str, Any]) -> str:
    """Return the name of a flat configuration's dataset: for an image folder, the folder's name."""
    return Path(config["data.root"]).name if config["data.name"] == "folder" else str(config["data.name"])


def told_weights(told: Mapping[str, Any]) -> str:
    """Say in words which weights a run began with, from ``environment.json``."""
    source = str(told["from"])
    if "round" in told:
        return f"{Path(source).name}, {told.get('unit', 'round')} {told['round']}"
    return str(told.get("name") or Path(source).name)


def training(config: Mapping[str, Any]) -> str:
    """Say by which method, and against which attack, the model of a flat configuration was trained."""
    loss, attack = config["loss.name"], config["attack.name"]
    if attack != "none":
        return f"adversarial training with {loss} against {attack} at epsilon {threat_label({}, config)}"
    if is_user_code(loss):  # it may attack by itself
        return f"training with {loss}"
    return "natural (standard) training, without an attack"
