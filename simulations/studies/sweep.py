"""Running a study: each point in a process of its own, with its log; finished ones are skipped."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from common.config.flat import Flat
from common.errors import FedShieldError, explain_os_errors
from common.files import replace_file, replace_json
from common.paths import whole_path
from common.words import time_text
from server.run_directory.reader import CENTRALIZED, FEDERATION, lost_rounds
from simulations.studies.gather import gather, is_finished, note_code, note_failure
from simulations.studies.preflight import check_code, check_data, check_directory, claim
from simulations.studies.processes import RunProcess, await_orphans, default_jobs, run_jobs
from simulations.studies.study import Point, Study, load_study, points, study_toml, with_headline
from simulations.terminal.console import Terminal, figures_may_fail
from simulations.terminal.sweep_view import SweepView


def run_study(file: Path, changes: Flat, results: Path | None, jobs: int | None, console: Terminal) -> Path:
    """Run what is missing of a study, and gather the results; return the study's directory.

    Args:
        file: a study file, or the name of a shipped one.
        changes: laid over the study's ``[set]``.
        results: the study's directory; None = one of the study's name in ``results.dir``.
        jobs: runs at a time; None = as many as the machine has GPUs, or cores for.
        console: where the progress goes.

    Raises:
        FedShieldError: the study is wrong, the directory is another's, or some runs failed.
    """
    study = load_study(file, changes)
    todo = points(study)  # parses the configuration of every point: a mistake in the last one shows now
    directory = whole_path(results or Path(str(study.settings["results.dir"]), study.name))
    claim(directory)
    lock = FileLock(directory / ".lock")
    with explain_os_errors(directory):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:  # an OSError too
            raise FedShieldError(f"{directory}: another sweep runs this study; wait for it to end") from error
    try:
        _Progress(with_headline(study, todo), todo, directory, console).run(jobs)
    finally:
        lock.release()
    return directory


def _count_lines(path: Path) -> int:
    """Return how many rounds a run has finished; none before it begins."""
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


class _Progress:
    def __init__(self, study: Study, todo: Sequence[Point], directory: Path, console: Terminal) -> None:
        self.study = study
        self.points = todo
        self.directory = directory
        self.runs = directory / "runs"
        self.console = console
        self.finished = 0
        self.failed = 0
        self.begun: dict[str, float] = {}
        self.told_rest = False

    def run(self, jobs: int | None) -> None:
        check_directory(self.study, self.points, self.directory)
        await_orphans([self.runs / point.name for point in self.points])
        unfinished = [point for point in self.points if not is_finished(self.study, self.runs / point.name)]
        check_data(unfinished)
        check_code(self.study, unfinished)
        replace_file(self.directory / "study.toml", study_toml(self.study).encode())
        done = gather(self.study, self.points, self.directory)
        missing = [point for point in self.points if point.name not in done]
        jobs = jobs or default_jobs([point.config.threads for point in self.points])
        self._say(f"Study: {self.study.title}: {len(self.points)} runs, {len(done)} of them finished: {self.directory}")
        self.finished = len(done)
        self.jobs, self.view = jobs, SweepView(self.console, len(self.points), len(done))
        self._draw([point for point in self.points if point.name in done])
        try:
            if self.study.command == "partitions":
                self._divide(missing)
            else:
                if missing:
                    self._say(f"{min(jobs, len(missing))} at a time; their logs: {self.runs}/*.log")
                with self.view:
                    run_jobs(self.study.command, missing, self.runs, jobs, self._ended, self._stopping, self._started)
        except KeyboardInterrupt:
            self._say(f"Stopped: {self.finished} of {len(self.points)} runs are finished; the same command continues")
            raise
        self._conclude()

    def _draw(self, done: Sequence[Point]) -> None:
        """Draw the missing figures of runs that were stopped while they were drawn."""
        for point in done if self.study.command != "partitions" else ():
            from simulations.reports.figures.run_figures import missing_figures, plot_run

            if missing_figures(run := self.runs / point.name):
                with figures_may_fail("the same command"):
                    plot_run(run)
                    self._say(f"Missing figures drawn: those of {point.name}")

    def _started(self, job: RunProcess) -> None:
        """Show a run that begins."""
        kind = CENTRALIZED if self.study.command == "centralized" else FEDERATION
        metrics = self.runs / job.point.name / "metrics.jsonl"
        self.view.started(job.point.name, partial(_count_lines, metrics), kind.total(job.point.config))
        self.begun.setdefault(job.point.name, time.monotonic())

    def _ended(self, job: RunProcess) -> None:
        """Report a run that has ended, and gather its results."""
        self.view.ended(job.point.name)
        if job.process.returncode == 0 and is_finished(self.study, self.runs / job.point.name):
            self.finished += 1
            self._tell(job.point, gather(self.study, self.points, self.directory)[job.point.name])
            self._tell_rest(job.point)
        else:
            self._fail(job.point, job.complaint())

    def _tell_rest(self, point: Point) -> None:
        """After the first run, tell how long the others take if each takes as long."""
        rest = len(self.points) - self.finished - self.failed
        if self.told_rest or not rest:
            return
        self.told_rest = True
        seconds = (time.monotonic() - self.begun[point.name]) * rest / min(self.jobs, rest)
        more = f"{rest} more run{'s' * (rest > 1)}, {self.jobs} at a time"
        self._say(f"About {time_text(seconds)} for {more}, if each takes as long")

    def _stopping(self) -> None:
        self._say("Stopping: waiting for checkpoints; Ctrl-C again kills the runs")

    def _fail(self, point: Point, complaint: str) -> None:
        self.failed += 1
        note_failure(self.runs, point.name, complaint)
        gather(self.study, self.points, self.directory)
        self._say(f"[{self.finished}/{len(self.points)}] {point.name}  failed: {complaint}")

    def _tell(self, point: Point, row: dict[str, Any]) -> None:
        rates = "".join(f"{x} {100 * row[x]:.1f} %  " for x in ("natural", *row.get("attacks", [])) if x in row)
        tail = f"{float(row['seconds']):.0f} s" if "seconds" in row else f"distance {row['distance']:.3f}"
        self._say(f"[{self.finished}/{len(self.points)}] {point.name}  {rates}{tail}")

    def _divide(self, missing: Sequence[Point]) -> None:
        """Divide the data for each point; this is too little work for separate processes."""
        from common.data.server_data import describe_partition
        from common.factory import prepare_data

        for point in missing:
            try:
                splits, division = prepare_data(point.config)
            except FedShieldError as error:
                self._fail(point, str(error))
                continue
            run = self.runs / point.name
            with explain_os_errors(run):
                run.mkdir(parents=True, exist_ok=True)
            note_code(self.runs, point.name)
            replace_json(run / "config.json", point.config.model_dump(by_alias=True))
            replace_json(run / "partition.json", describe_partition(splits.train, division))
            self.finished += 1
            self._tell(point, gather(self.study, self.points, self.directory)[point.name])

    def _conclude(self) -> None:
        for point in self.points if self.study.command != "partitions" else ():
            if is_finished(self.study, run := self.runs / point.name) and (odd := lost_rounds(run)):
                self._say(f"{point.name}: {odd}: rounds.csv and its seconds do not cover the whole run")
        self._say(f"Results: {self.directory}/results.csv; tables and figures with: fedshield tables {self.directory}")
        if self.failed:
            raise FedShieldError(
                f"{self.failed} of {len(self.points)} runs failed; their logs: {self.runs}/*.log; fix what "
                "they say, and the same command tries them again"
            )

    def _say(self, line: str) -> None:
        self.console.print(line)
