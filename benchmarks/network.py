"""What a message to a real client costs: rounds of almost no training, over TLS, with and without what FedShield keeps.

``uv run python -m benchmarks.network [--repeats 3] [--clients 4]``: twelve minutes a repeat on two cores, or four with
two clients.
"""

import argparse
import functools
import statistics
import tempfile
from pathlib import Path

from benchmarks.harness import Figures, alternate, median, median_ratio, report
from server.run_directory.reader import read_metrics
from tests.helpers.bench import Bench
from tests.helpers.processes import cpu_seconds

ROUNDS = 6
SIDES = {
    "flower-supernode, nothing kept": ("flower-supernode", "0"),
    "flower-supernode": ("flower-supernode", "1"),
    "fedshield-supernode, nothing kept": ("fedshield-supernode", "0"),
    "fedshield-supernode": ("fedshield-supernode", "1"),
}


def federation(clients: int, supernode: str, resident: str) -> Figures:
    """Run a federation of processes; return seconds of a round, and of computing in it by SuperLink and ServerApp.

    The first round is left out: in it every client builds what it needs. What clients compute cannot be told in this
    way: no process waits for the forked ones, so Linux does not add their time to any other.
    """
    settings = {"federation.client-timeout-seconds": 600, "federation.rounds": ROUNDS}
    with tempfile.TemporaryDirectory(prefix="network-") as place:
        with Bench(Path(place), clients, settings) as bench:
            bench.environment["FEDSHIELD_RESIDENT"] = resident
            bench.supernode = supernode
            bench.start_all()
            bench.submit()
            run = bench.folder / "runs" / "run"
            bench.until((run / "metrics.jsonl").exists, 600, every=0.1)
            before = computed(bench)
            bench.until(lambda: (run / "metrics.jsonl").read_text().count("\n") == ROUNDS, 1200, every=0.1)
            after = computed(bench)
            lines = read_metrics(run)
        if any(line["refused"] for line in lines):
            raise SystemExit(f"a client was left out: {lines}")
    return {
        "round": statistics.median(float(line["seconds"]) for line in lines[1:]),
        **{name: (after[name] - before[name]) / (ROUNDS - 1) for name in after},
    }


def computed(bench: Bench) -> dict[str, float]:
    """Return the seconds that the server's parts have computed so far."""
    return {name: cpu_seconds(bench.pids(name)) for name in ("superlink", "server")}


def main() -> None:
    """Measure all sides in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    arguments = parser.parse_args()
    sides = {name: functools.partial(federation, arguments.clients, *how) for name, how in SIDES.items()}
    found = alternate(sides, arguments.repeats, warmups=0)
    base = found["flower-supernode, nothing kept"]
    figures = ("round", "superlink", "server")
    rows = [
        [name, *(median(runs, figure) for figure in figures), median_ratio(runs, base, "round")]
        for name, runs in found.items()
    ]
    columns = ["clients' side", "a round, s", "SuperLink, s", "ServerApp, s", "× first row"]
    report("network", columns, rows, clients=arguments.clients, rounds=ROUNDS, runs=found)


if __name__ == "__main__":
    main()
