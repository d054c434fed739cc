"""What the benchmarks share: sides measured in turn, medians, hardware, a table and a JSON file."""

import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"

Figures = dict[str, float]
Side = Callable[[], Figures]
"""Does the work once and returns what was measured: name -> figure, most often seconds."""


def alternate(sides: Mapping[str, Side], repeats: int, warmups: int = 1) -> dict[str, list[Figures]]:
    """Run the sides in turn, so that other load on the machine affects all of them alike.

    Args:
        sides: by name.
        repeats: figures of each side, 5 or more for a figure worth quoting.
        warmups: runs of each side before those, thrown away.

    Returns:
        Side -> its figures, one entry for each repeat.
    """
    found: dict[str, list[Figures]] = {name: [] for name in sides}
    for turn in range(warmups + repeats):
        for name, side in sides.items():
            figures = side()
            if turn >= warmups:
                found[name].append(figures)
            Console(stderr=True).print(f"  {turn + 1}/{warmups + repeats}  {name}  {figures}", markup=False)
    return found


def median(runs: Sequence[Figures], figure: str) -> float:
    """Return the median of one figure over the repeats."""
    return statistics.median(run[figure] for run in runs)


def median_ratio(runs: Sequence[Figures], base: Sequence[Figures], figure: str) -> float:
    """Return the median of the ratios turn by turn: a slow minute of the machine slows down both sides of a turn."""
    return statistics.median(run[figure] / other[figure] for run, other in zip(runs, base, strict=True))


def report(name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], **details: Any) -> None:
    """Print a table and write ``benchmarks/results/NAME.json``.

    Args:
        name: of the benchmark.
        columns: headers of the table.
        rows: cells; floats are printed with three significant digits.
        details: everything else that a reader needs: parameters, all the single figures.
    """
    console = Console(soft_wrap=True)
    table = Table(*columns, title=name)
    for row in rows:
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    console.print(table)
    machine = hardware()
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()), markup=False)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {
        "benchmark": name,
        "date": str(date.today()),
        "hardware": machine,
        "rows": [dict(zip(columns, row, strict=True)) for row in rows],
        **details,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    console.print(f"Written: {path}", markup=False)


def hardware() -> dict[str, str]:
    """Return processor, cores, GPU and the versions that matter."""
    import torch

    from server.run_directory.environment import installed, processor

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "processor": processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "gpu": gpu,
        "python": platform.python_version(),
        **{package: str(installed(package)) for package in ("torch", "torchattacks", "flwr", "ray")},
    }


def resident_bytes(pids: Sequence[int]) -> int:
    """Return the proportional set size of processes: memory that several share is counted once."""
    total = 0
    for pid in pids:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:  # it ended while we looked
            continue
    return total
