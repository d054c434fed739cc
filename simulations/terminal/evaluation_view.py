"""Shows how far an evaluation is, and the time left, in a terminal; nothing where there is no terminal."""

import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from common.attacks.passes import attack_passes
from common.attacks.threat import AttackSpec
from common.config.flat import Flat
from common.evaluation.evaluate import passes
from common.evaluation.store import SAVED
from server.run_directory.reader import parse_stored, read_config
from simulations.terminal.progress import progress_bar

_CLASSES = 10  # where nobody has counted them yet: only the shares of the bar depend on it
_SEVERITIES = 5
_UNKNOWN = 40.0  # forward passes of a user's own attack

Part = tuple[str, float]  # what is kept under this name, and its work in forward passes of an image


def planned(run_dir: Path, changes: Flat, models: int, radii: int, corruptions: Sequence[str]) -> list[Part]:
    """Return what an evaluation of a run keeps, in its order, with the work of each.

    Args:
        run_dir: of the run.
        changes: keys of its configuration to change.
        models: how many models the examples are made on, 1 or more.
        radii: of the curve over epsilon.
        corruptions: their kinds.
    """
    attacks = parse_stored(run_dir, {**read_config(run_dir), **changes}).final_attacks()
    return parts_of(attacks, models, radii, corruptions)


def parts_of(attacks: Sequence[str], models: int, radii: int, corruptions: Sequence[str]) -> list[Part]:
    """Return the same for these attacks; the other arguments are those of ``planned``.

    Args:
        attacks: of the evaluation.
        models: how many models the examples are made on, 1 or more.
        radii: of the curve over epsilon.
        corruptions: their kinds.
    """
    parts: list[Part] = [("natural", 1.0)]
    for label in attacks:
        for name, attack, _ in passes(AttackSpec.parse(label)):
            parts.append((name, attack_passes(str(attack), _CLASSES) or _UNKNOWN))
    curve = next((label for label in attacks if AttackSpec.parse(label).name == "pgd"), "pgd-20")
    of_curve = [("natural", 1.0), (curve, attack_passes(curve, _CLASSES) or _UNKNOWN)]
    return [*parts * models, *of_curve * radii, *((kind, 1.0) for kind in corruptions for _ in range(_SEVERITIES))]


class EvaluationView(logging.Handler):
    """A bar of the work of an evaluation, and the attack that is under way.

    What an earlier command has measured is passed over.

    Args:
        console: where the log goes too.
        parts: as in ``planned``.
        kept: the folder of what is kept, which Ctrl-C tells.
    """

    def __init__(self, console: Console, parts: Sequence[Part], kept: Path) -> None:
        super().__init__()
        self._console, self._kept = console, kept
        self._bar = progress_bar(console, transient=True, disable=not console.is_terminal)
        self._parts, self._at = parts, 0
        self._task = self._bar.add_task("loading model and images", total=sum(work for _, work in parts))

    def __enter__(self) -> Self:
        SAVED.addHandler(self)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        SAVED.removeHandler(self)
        self._bar.stop()
        if isinstance(error, KeyboardInterrupt):
            self._console.print(f"Stopped: what was measured is kept in {self._kept}; the same command continues")

    @property
    def share(self) -> float:
        """How much of the work is done, in [0, 1]."""
        task = self._bar.tasks[self._task]
        return task.completed / (task.total or 1)

    def emit(self, record: logging.LogRecord) -> None:
        """Take what was just kept of an evaluation."""
        arrays: dict[str, Any] = getattr(record, "arrays", {})
        name, count = record.getMessage(), len(arrays.get("predictions", ()))
        places = [at for at in range(self._at, len(self._parts)) if name.startswith(self._parts[at][0])]
        if not places or not count:
            return
        exact = [at for at in places if self._parts[at][0] == name]
        self._at = (exact or places)[0]
        done = int(arrays.get("done", count)) / count
        before = sum(work for _, work in self._parts[: self._at])
        self._bar.update(
            self._task,
            completed=before + done * self._parts[self._at][1],
            description=f"{name}: {round(done * count):,} of {count:,} images",
        )
        if done == 1:
            self._at += 1
            if self._at < len(self._parts):
                self._bar.update(self._task, description=f"{self._parts[self._at][0]}: {count:,} images")
