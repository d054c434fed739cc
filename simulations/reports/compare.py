"""Runs compared: what differs in configuration and in result."""

from collections.abc import Sequence
from pathlib import Path

from common.config.flat import Flat
from common.data.cuts import tested_images, training_images, unused_images
from common.errors import FedShieldError
from common.statistics import Mask, difference
from server.run_directory.reader import (
    find_results,
    lost_rounds,
    names_of,
    read_config,
    read_described_partition,
    read_environment,
    read_kind,
    read_metrics,
)
from simulations.reports.accuracy import NO_ATTACK, AccuracyTable, Record, Row, bracket, share, tell_chance
from simulations.reports.beside import tell_backdoor, tell_calibration, tell_corruptions
from simulations.reports.differences import signed_interval
from simulations.reports.headline import OF_THE_PLACE, Headline, last_round, read_headline, tell_others, threat_label
from simulations.reports.sheets import Sheet

_PAIRED = "points, on the same test images: mean [95 % interval]; it is about these images, not about training seeds"


def compare_runs(runs: Sequence[Path]) -> list[Sheet]:
    """Return tables of what differs: configuration, results, and results image by image.

    Args:
        runs: two run directories or more, or their names in ``results.dir``.

    Raises:
        FedShieldError: there are fewer than two, or a run's files are damaged.
    """
    if len(runs) < 2:
        raise FedShieldError(f"compare: {len(runs)} run given; name two or more")
    paths = [find_results(run) for run in runs]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise FedShieldError(f"compare: {twice[0]} is named twice; name two runs or more")
    names = names_of(paths)
    done = _configurations(paths, names)
    found = [read_headline(path) for path in paths]
    descriptions = [read_described_partition(path) for path in paths]
    threats = [threat_label(each.figures, read_config(path)) for each, path in zip(found, paths, strict=True)]
    results = _results([each.figures for each in found], names, descriptions, threats)
    return [done, results, _pairs(found, names, threats)]


def _configurations(paths: Sequence[Path], names: Sequence[str]) -> Sheet:
    told = [{**_settings(path), **_done(path)} for path in paths]
    rows = [
        [key, *(str(each.get(key, "–")) for each in told)]
        for key in dict.fromkeys(key for each in told for key in each)
        if len({str(each.get(key)) for each in told}) > 1
    ]
    notes = [] if rows else ["nothing: the configuration is the same, with the same seed"]
    for name, path in zip(names, paths, strict=True):
        if odd := lost_rounds(path):
            notes.append(f"{name}: {odd}: its minutes do not cover the whole run")
    return Sheet("What differs in what was done", ["key", *names], rows, notes, len(names) + 1)


def _settings(path: Path) -> Flat:
    config = read_config(path)
    told = ("data.root",) if config["data.name"] in ("folder", "split") else ()  # it alone tells which images they are
    return {key: value for key, value in config.items() if key in told or not key.startswith(OF_THE_PLACE)}


def _done(path: Path) -> dict[str, str]:
    kind, metrics, environment = read_kind(path), read_metrics(path), read_environment(path)
    described = read_described_partition(path)
    return {
        "kind": kind.name,
        f"{kind.unit}s done": str(last_round(metrics)),
        "finished": str((path / "summary.json").exists()),
        "training images": training_images(described) or "–",
        "classes": ", ".join(described.get("classes", ())),
        "minutes": f"{sum(line['seconds'] for line in metrics) / 60:.1f}",
        "processor": f"{environment.get('processor')}, {environment.get('device')}",
        "FedShield": str(environment.get("packages", {}).get("fedshield")),
    }


def _results(
    found: Sequence[Record], names: Sequence[str], descriptions: Sequence[Record], threats: Sequence[str]
) -> Sheet:
    apart = len(set(threats)) > 1
    tables = [AccuracyTable.of(figures) for figures in found]
    attacks = list(dict.fromkeys(attack for accuracy in tables for attack in accuracy.attacks()))
    rows = []
    for name, accuracy, described in zip(names, tables, descriptions, strict=True):
        known = accuracy.whole()
        n = tested_images(accuracy.n, described) if known else "–"
        rows.append([name, n, *(_cell(known.get(label)) for label in ("natural", *attacks, "worst"))])
    header = ["run", "n", "natural %", *(f"{attack} %" for attack in attacks), "worst %"]
    if any(figures.get("corruptions") for figures in found):
        header.append("corrupted %")
        rows = [[*row, _corrupted(figures)] for row, figures in zip(rows, found, strict=True)]
    notes = ["in brackets: 95 % intervals for the sample of test images; another training seed may differ by more"]
    notes += [f"{name}: attacked within {threat}" for name, threat in zip(names, threats, strict=True) if apart]
    notes += [
        f"{name}: {NO_ATTACK}" for name, each in zip(names, tables, strict=True) if each.rows and not each.attacked
    ]
    chances = [tell_chance(figures, described) for figures, described in zip(found, descriptions, strict=True)]
    alike = all(each == chances[0] for each in chances)
    notes += chances[0] if alike else []
    for name, figures, described, own in zip(names, found, descriptions, chances, strict=True):
        notes += [
            f"{name}: {told}"
            for told in [
                *([] if alike else own),
                *tell_calibration(figures),
                *tell_backdoor(figures),
                *tell_others(figures),
            ]
        ]
        notes += [f"{name}: warning: {line}" for line in figures.get("warnings", ())]
        if figures.get("corruptions"):
            notes.append(f"{name}: corrupted: {tell_corruptions(figures)}")
        if unused_images(described):
            notes.append(f"{name}: trained on {training_images(described)} images (data.max-examples)")
    return Sheet("Results", header, rows, notes, 1)


def _corrupted(figures: Record) -> str:
    known = figures.get("corruptions")
    return f"{share(known['mean']['value'])} {bracket(known['mean']['interval'])}" if known else "–"


def _pairs(found: Sequence[Headline], names: Sequence[str], threats: Sequence[str]) -> Sheet:
    """Return the differences from the first run, where both have kept their predictions for the very same images."""
    base, *others = names
    kept = {name: _correct(headline) for name, headline in zip(names, found, strict=True)}
    images, first = kept[base]
    paired = {name: kept[name][1] for name in others if images and kept[name][0] == images}
    attacks = [attack for attack in first if paired and all(attack in masks for masks in paired.values())]
    notes = [_PAIRED] if paired else []
    if len(set(threats)) > 1:
        attacks = [attack for attack in attacks if attack == "natural"]
        notes.append("under attack: none, because the runs were not attacked within the same epsilon and norm")
    some_elsewhere = any(headline.figures.get("broken-elsewhere") for headline in found)
    if "worst" in attacks and (some_elsewhere or any(masks.keys() != first.keys() for masks in paired.values())):
        attacks.remove("worst")
        notes.append("no worst case: the runs were not evaluated with the same attacks on all these images")
    rows = [
        [name, f"{len(masks['natural']):,}", *(signed_interval(difference(first[a], masks[a])) for a in attacks)]
        for name, masks in paired.items()
    ]
    for name in others:
        if lacking := [each for each in (base, name) if not kept[each][0]]:
            notes.append(f"{name}: none, because {lacking[0]} has no predictions; fedshield evaluate stores them")
        elif name not in paired:
            notes.append(f"{name}: none, because it was measured on other test images than {base}")
    return Sheet(f"Difference from {base}", ["run", "n", *attacks], rows, notes, 1)


def _correct(headline: Headline) -> tuple[str, dict[str, Mask]]:
    """Return which images a headline is of, and which of them were correct, as in ``Evaluation.masks``.

    Nothing where no predictions are kept.
    """
    if headline.evaluation is None:
        return "", {}
    return str(headline.arrays["images"]), headline.evaluation.masks()


def _cell(row: Row | None) -> str:
    return f"{share(row.value)} {bracket(row.interval)}" if row else "–"
