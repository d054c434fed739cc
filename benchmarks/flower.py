"""The stock app, timed under Flower's own command."""

import contextlib
import itertools
import json
import statistics
import threading
from pathlib import Path
from typing import Any, Self

from benchmarks.harness import Figures, resident_bytes
from tests.helpers.flower import Flower

STOCK = Path(__file__).parent / "stock_flower"


class Peak:
    """While the context is open, samples the memory of all processes of a Flower, each shared page once."""

    def __init__(self, flower: Flower, seconds: float = 0.5) -> None:
        self.flower = flower
        self.seconds = seconds
        self.bytes = 0

    def __enter__(self) -> Self:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._end.wait(self.seconds):
            self.bytes = max(self.bytes, resident_bytes(self.flower.pids()))


def time_stock(
    flower: Flower,
    folder: Path,
    data: Path,
    rounds: int,
    *,
    nodes: int = 10,
    cpus_per_client: int = 1,
    memory: bool = True,
    **settings: object,
) -> Figures:
    """Make one run of the stock app.

    Args:
        flower: a fresh one, if the start of the SuperLink is to be in the figures.
        folder: takes the log of times, ``stock.jsonl``.
        data: ``.npz`` file, see the app's ``pyproject.toml``.
        rounds: 2 or more.
        nodes: number of clients.
        cpus_per_client: see ``Flower.run``.
        memory: measure it too. Counting the pages of a dozen processes takes a tenth of a second of one core each
            time: leave it out where the seconds matter.
        settings: more run config, with underscores for hyphens: ``attack_steps=7``.

    Returns:
        ``to_server``: seconds from the command to the ServerApp's first line. ``to_first_step``: seconds from the
        command to the first client that is about to compute its first gradient. ``first_round``: seconds from the
        ServerApp's first line to the end of round 1. ``later_round``: median of the other rounds. ``peak_bytes``, with
        ``memory``: the most that all processes of the run held at once.

    Raises:
        RuntimeError: the run failed, or a client did in any round, which Flower itself ignores.
    """
    log = folder.resolve() / "stock.jsonl"
    log.unlink(missing_ok=True)
    config: dict[str, object] = {
        "num-server-rounds": rounds,
        "data-path": str(data.resolve()),
        "log-path": str(log),
        **{key.replace("_", "-"): value for key, value in settings.items()},
    }
    with Peak(flower) if memory else contextlib.nullcontext() as peak:
        started = flower.run(STOCK, nodes, cpus_per_client, config)
    lines = events(log)
    replies = len(_times(lines, "client"))
    if replies != rounds * nodes:
        raise RuntimeError(f"stock_flower: {replies} replies, not {rounds} x {nodes}\n{flower.output[-4000:]}")
    server = _times(lines, "server")[0]
    ends = _times(lines, "round")  # round 0 is the evaluation before the first round
    return {
        "to_server": server - started,
        "to_first_step": min(_times(lines, "first-step")) - started,
        "first_round": ends[1] - server,
        "later_round": statistics.median(end - begin for begin, end in itertools.pairwise(ends[1:])),
        **({"peak_bytes": float(peak.bytes)} if peak else {}),
    }


def events(path: Path) -> list[dict[str, Any]]:
    """Read a log of times: one JSON object a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _times(lines: list[dict[str, Any]], event: str) -> list[float]:
    return [float(line["time"]) for line in lines if line["event"] == event]
