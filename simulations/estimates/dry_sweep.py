"""``fedshield sweep --dry-run``: the checks of a study, its points, and what they will take."""

from collections.abc import Sequence
from pathlib import Path

from common.config.flat import Flat
from common.config.schema import RunConfig
from common.paths import whole_path
from common.words import time_text
from server.run_directory.reader import CENTRALIZED, FEDERATION
from simulations.estimates.dry_run import flop_text, seconds_of
from simulations.estimates.speed import Speed, measure
from simulations.estimates.work import Work, count_images, work_of
from simulations.reports.sheets import Sheet
from simulations.studies.gather import is_finished
from simulations.studies.preflight import check_claim, check_code, check_data, check_directory
from simulations.studies.processes import default_jobs
from simulations.studies.study import Point, Study, load_study, points
from simulations.study_directory import cell
from simulations.terminal.console import Terminal

_HEADER = ("runs", "rounds", "clients a round", "images trained on", "passes each", "time of a run")


def dry_sweep(file: Path, changes: Flat, results: Path | None, jobs: int | None, console: Terminal) -> None:
    """Check a study, and print its points with their work; the arguments and errors are those of ``run_study``."""
    study = load_study(file, changes)
    whole = points(study)
    directory = whole_path(results or Path(str(study.settings["results.dir"]), study.name))
    check_claim(directory)
    if directory.exists():
        check_directory(study, whole, directory)
    todo = [point for point in whole if not is_finished(study, directory / "runs" / point.name)]
    check_data(todo)
    check_code(study, todo)
    finished = len(whole) - len(todo)
    console.print(f"Study: {study.title}: {len(whole)} runs, {finished} of them finished: {directory}")
    if todo and study.command != "partitions":
        _tell_work(study, todo, jobs or default_jobs([point.config.threads for point in todo]), console)
    console.print(
        "Dry run: everything that is checked before the first run is in order; nothing was trained or written"
    )


def _tell_work(study: Study, todo: Sequence[Point], jobs: int, console: Terminal) -> None:
    """Print a row for each point, and their sum."""
    kind = CENTRALIZED if study.command == "centralized" else FEDERATION
    speeds: dict[object, Speed] = {}
    rows: dict[str, list[str]] = {}
    seconds = flops = 0.0
    for point in todo:
        images = count_images(point.config, kind)
        work = work_of(point.config, kind, images)
        decisive = _decisive(point.config, images.classes)
        if decisive not in speeds:
            speeds[decisive] = measure(point.config, images.classes)
        speed = speeds[decisive]
        takes = sum(seconds_of(work, speed, 1))
        seconds += takes
        flops += (work.images * (work.passes or 0) + work.tested) * speed.flops
        names = [cell(value) for value in point.varied.values()]
        runs = 1 + int(rows[point.label][len(names)]) if point.label in rows else 1
        rows[point.label] = [*names, str(runs), *_cells(work), time_text(takes)]
    keys = list(todo[0].varied)
    sheet = Sheet(study.title, [*keys, *_HEADER], list(rows.values()), [], len(keys))
    console.print(sheet.rich(console.width))
    jobs = min(jobs, len(todo))
    memory = max(speed.memory for speed in speeds.values()) / 1e9
    console.print(
        f"In all: {len(todo)} runs, {flop_text(flops)}; about {time_text(seconds / jobs)} with {jobs} at a time "
        f"(measured here: {len(speeds)} kind{'s' * (len(speeds) > 1)} of training step); memory: about {memory:.1f} GB "
        "each, without the images"
    )


def _decisive(config: RunConfig, classes: int) -> object:
    """Return what decides the time of a step; the seed and the division of the data do not."""
    return (config.model, config.loss, config.attack, config.train, config.data.side, config.threads, classes)


def _cells(work: Work) -> list[str]:
    passes = "?" if work.passes is None else f"{work.passes:.4g}"
    return [str(work.rounds), str(work.cohort), f"{work.images:,.0f}", passes]
