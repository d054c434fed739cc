"""What a run has left behind, for Python: figures as tables, its model, its report."""

import base64
import html
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from common.arguments import check_flags, list_of, names_of, path_of
from common.config.flat import Flat, default_config
from common.data.datasets import Dataset
from common.errors import FedShieldError, explain_os_errors
from common.factory import check_user_code, make_model, test_data
from common.paths import whole_path
from fedshield.guest import at_work
from fedshield.measuring import Measured, labels_of
from fedshield.settings import check_known, to_scalar
from server.run_directory.checkpoint import fit_state, selected_model
from server.run_directory.reader import (
    find_results,
    parse_stored,
    read_classes,
    read_config,
    read_kind,
    read_metrics,
    read_summary,
)
from server.run_directory.restored import stored_config
from simulations.cli.options import only_measuring, parse_corruptions, parse_radii
from simulations.reports.headline import read_figures
from simulations.terminal.console import figures_may_fail

if TYPE_CHECKING:
    import pandas as pd

_GONE = "its directory is gone"
_RUNS = "a run, its directory, or a list of them"
_FIGURES = ("accuracy", "partition")
_OF_EVALUATE = ("attacks", "examples", "epsilon_255", "epsilons", "corruptions", "made_on", "personal", "quiet")


class Run:
    """A run, finished or not, read from its directory whenever something of it is asked for.

    Args:
        path: of the directory.
        trust_code: run code of the run that has not run on this machine before.

    Attributes:
        path: absolute.
    """

    def __init__(self, path: str | Path, trust_code: bool = False) -> None:
        check_flags(trust_code=trust_code)
        self.path = find_results(path_of("path", path))
        self._trust_code = trust_code
        read_config(self.path)  # or it is not a run

    def __fspath__(self) -> str:
        """Return the path, so that a run can be given where its directory can."""
        return str(self.path)

    @property
    def name(self) -> str:
        """Name of the directory."""
        return self.path.name

    @property
    def config(self) -> Flat:
        """Every key of the configuration, as in ``docs/reference.md``."""
        return parse_stored(self._there, read_config(self._there)).flat() | {"results.name": self.name}

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return bool(self.summary)

    @property
    def summary(self) -> dict[str, Any]:
        """The final evaluation, as ``summary.json`` has it; empty of an unfinished run."""
        return read_summary(self._there)

    @property
    def metrics(self) -> "pd.DataFrame":
        """A row for each round (epoch, where there is no federation), by its number.

        ``natural``, each attack's label and ``robust`` (correct under all of them) are shares of the ``n`` test images;
        ``-low`` and ``-high`` are the ends of their 95 % intervals. They are empty in rounds without an evaluation. All
        other columns are numbers of ``metrics.jsonl``.
        """
        import pandas as pd

        rows = [_row(line) for line in read_metrics(self._there)]
        frame = pd.DataFrame(rows, columns=list(dict.fromkeys(key for row in rows for key in row)) or ["round"])
        return frame.set_index("round").rename_axis(read_kind(self._there).unit)

    @property
    def model(self) -> nn.Module:
        """The final model, in eval mode on the CPU: from pixels [B,3,H,W] in [0, 1] to logits [B, classes].

        Raises:
            FedShieldError: no round is finished, files are damaged, or the run's code is not trusted.
        """
        with at_work(quiet=True):
            config = stored_config(self._there, {}, "run.model", self._trust_code)
            check_user_code(config, ("model.name",))
            model = make_model(config, len(read_classes(self._there)))
            fit_state(model, selected_model(self._there)[1], self._there)
        return model.eval()

    @property
    def test(self) -> Dataset:
        """All test images of the run's data: ``images`` uint8 [N,3,S,S], ``labels`` int64 [N], and ``classes``."""
        with at_work(quiet=True):
            return test_data(stored_config(self._there, {}, "run.test", self._trust_code, runs=()))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the model's logits."""
        return read_classes(self._there)

    def report(self, out: str | Path | None = None) -> Path:
        """Write the report, one HTML file, and return its path; ``report.html`` in the run's directory by default."""
        from simulations.reports.html.write import write_report

        with at_work(quiet=True):
            return write_report(self._there, None if out is None else path_of("out", out))

    def evaluate(
        self,
        attacks: str | Sequence[Any] | None = None,
        examples: int | None = None,
        *,
        epsilon_255: float | None = None,
        epsilons: str | float | Sequence[float] = (),
        corruptions: Sequence[str] | str = (),
        made_on: "str | Path | Run | Sequence[str | Path | Run]" = (),
        personal: bool = False,
        quiet: bool = False,
        **keys: Any,
    ) -> Measured:
        """Measure the run's model, as ``fedshield evaluate`` does; the result is kept in the run's directory too.

        Args:
            attacks: as in ``fedshield.evaluate``; None for the run's final attacks.
            examples: number of test images, balanced over the classes, 0 for all; None for the run's own.
            epsilon_255: radius of the attacks, in 1/255; None for the run's own.
            epsilons: radii of a curve, in 1/255: ``[0, 4, 8]``, or ``"0,4,8"``.
            corruptions: kinds of common corruptions, or ``"all"``.
            made_on: other runs, on whose models the attacks' examples are made too.
            personal: measure the clients' own models too.
            quiet: show only warnings.
            keys: of the configuration that change how a run is measured, such as ``**{"data.root": DIR}``.

        Raises:
            FedShieldError: as in ``fedshield evaluate``.
        """
        from server.evaluation import evaluate_run
        from simulations.reports.figures.evaluation_figures import plot_evaluation

        with at_work(quiet):
            check_known(keys, _OF_EVALUATE)
            check_flags(personal=personal)
            changes = only_measuring({key: to_scalar(key, value) for key, value in keys.items()})
            if attacks is not None:
                changes["evaluate.final-attacks"] = ",".join(labels_of(attacks))
            for key, value in (("evaluate.final-examples", examples), ("attack.epsilon-255", epsilon_255)):
                changes |= {} if value is None else {key: to_scalar(key, value)}
            kinds = corruptions if isinstance(corruptions, str) else ",".join(names_of("corruptions", corruptions))
            others = [made_on] if isinstance(made_on, str | os.PathLike) else list_of("made_on", made_on, _RUNS)
            found = evaluate_run(
                *(self._there, changes, _radii(epsilons), self._trust_code),
                *(parse_corruptions(kinds) if kinds else (), [_path(run) for run in others], personal),
            )
            with figures_may_fail("the same call"):
                plot_evaluation(self._there)
        attack, record = found.config.attack, found.record
        return Measured(
            found.evaluation, tuple(record["warnings"]), float(attack.epsilon_255), attack.norm, record=record
        )

    @property
    def _there(self) -> Path:
        """The path; one that was deleted or moved would look like a run without rounds, or a damaged one."""
        if not (self.path / "config.json").exists():
            raise FedShieldError(f"Run {self.path}: {_GONE}; if it was moved, load it from its new place")
        return self.path

    def __repr__(self) -> str:
        if not (self.path / "config.json").exists():
            return f"Run {self.path}: {_GONE}"
        unit, total = read_kind(self.path).unit, len(read_metrics(self.path))
        state = "finished" if self.finished else "not finished"
        figures = {} if not total else read_figures(self.path)
        told = [f"{name} {_percent(figures.get(key))}" for name, key in (("natural", "natural"), ("robust", "worst"))]
        shown = f", {', '.join(told)}, n = {figures['n']}" if figures else ""
        return f"Run {self.path}: {state}, {total} {unit}{'s' * (total != 1)}{shown}"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the line of ``repr``, the last rounds, and the figures."""
        told = f"<p>{html.escape(repr(self))}</p>"
        if not (self.path / "config.json").exists():
            return told
        parts = [told, self.metrics.tail(3).round(3).to_html(na_rep="")]
        for name in _FIGURES:
            with suppress(OSError):
                content = base64.b64encode((self.path / "figures" / f"{name}.png").read_bytes()).decode()
                parts.append(f'<img alt="{name}" style="max-width: 48%" src="data:image/png;base64,{content}">')
        return "\n".join(parts)


def load(path: str | Path, trust_code: bool = False) -> Run:
    """Return a run from its directory, or from its name where it is in ``runs``.

    Args:
        path: of the directory.
        trust_code: its ``model`` and ``evaluate`` may run code that came with it and has not run here before.

    Raises:
        FedShieldError: there is no run.
    """
    with explain_os_errors():
        return Run(path, trust_code)


def runs(folder: str | Path | None = None) -> "pd.DataFrame":
    """Return a table of the runs in a folder, by name.

    Args:
        folder: of run directories; None for ``runs``.

    Returns:
        ``finished``, ``rounds`` (done so far; epochs, where there is no federation), ``natural`` and ``robust``
        accuracy in [0, 1] on ``n`` test images (empty where nothing was measured), ``kind`` and ``path``.

    Raises:
        FedShieldError: there is no such folder, or a file of a run is damaged.
    """
    import pandas as pd

    place = whole_path(path_of("folder", default_config()["results.dir"] if folder is None else folder))
    with explain_os_errors(place):
        if not place.is_dir():
            raise FedShieldError(f"{place}: no such folder; give one that has run directories")
        found = sorted(path.parent for path in place.glob("*/config.json"))
    columns = ["name", "finished", "rounds", "natural", "robust", "n", "kind", "path"]
    return pd.DataFrame([_told(path) for path in found], columns=columns).set_index("name")


def _told(path: Path) -> dict[str, Any]:
    read_config(path)
    done = len(read_metrics(path))
    figures = read_figures(path) if done else {}
    rates = {name: (figures.get(key) or {}).get("value") for name, key in (("natural", "natural"), ("robust", "worst"))}
    told = {"name": path.name, "finished": bool(read_summary(path)), "rounds": done, **rates}
    return told | {"n": figures.get("n"), "kind": read_kind(path).name, "path": path}


def _row(line: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"round": line["round"]}
    if evaluation := line["evaluation"]:
        rates = {"natural": evaluation["natural"], **evaluation["robust"], "robust": evaluation["worst"]}
        for name, rate in rates.items():
            if rate is not None:
                low, high = rate["interval"]
                row |= {name: rate["value"], f"{name}-low": low, f"{name}-high": high}
        row["n"] = evaluation["n"]
    return row | {key: value for key, value in line.items() if isinstance(value, int | float) and key != "round"}


def _radii(epsilons: str | float | Sequence[float]) -> tuple[float, ...]:
    if isinstance(epsilons, str | int | float):
        return parse_radii(str(epsilons))
    radii = list_of("epsilons", epsilons, "radii in 1/255, as in [0, 4, 8]")
    return parse_radii(",".join(map(str, radii))) if radii else ()


def _percent(rate: dict[str, Any] | None) -> str:
    return "not measured" if rate is None else f"{100 * rate['value']:.1f} %"


def _path(run: "str | Path | Run") -> Path:
    return run.path if isinstance(run, Run) else find_results(path_of("made_on", run))
