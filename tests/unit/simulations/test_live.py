"""What is seen of a run while it goes on: in a terminal, by a program, and by nobody."""

import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from server.run_directory.reader import read_metrics
from simulations.terminal.live_view import LiveView, sparks
from tests.helpers.bench import BIN
from tests.helpers.program import fedshield, tiny_options


class Terminal:
    """A command in a terminal of its own, which keeps all that is written to it."""

    def __init__(self, *words: str, columns: int = 100) -> None:
        near, far = pty.openpty()
        environment = {**os.environ, "COLUMNS": str(columns), "LINES": "40", "TERM": "xterm"}
        self.process = subprocess.Popen(
            [BIN / "fedshield", *words], stdin=far, stdout=far, stderr=far, env=environment, start_new_session=True
        )
        os.close(far)
        os.set_blocking(near, False)
        self._near, self._raw = near, b""

    @property
    def text(self) -> str:
        """All that was written so far, without what moves the cursor or colors."""
        try:
            while chunk := os.read(self._near, 65536):
                self._raw += chunk
        except OSError:  # nothing more, or for good
            pass
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._raw.decode(errors="replace"))

    def until(self, holds: Callable[[str], bool], seconds: float = 120) -> str:
        end = time.monotonic() + seconds
        while not holds(self.text):
            assert time.monotonic() < end, self.text[-3000:]
            time.sleep(0.05)
        return self.text

    def end(self, seconds: float = 120) -> int:
        while self.process.poll() is None:
            self.until(lambda text: self.process.poll() is not None, seconds)
        return self.process.returncode

    @property
    def cursor(self) -> bool:
        """Whether the cursor was left visible."""
        return self._raw.rfind(b"\x1b[?25h") >= self._raw.rfind(b"\x1b[?25l")


def test_a_terminal_shows_rounds_clients_and_trends_and_keeps_the_log(tmp_path: Path) -> None:
    rounds = ["--set", "federation.rounds=9"]
    terminal = Terminal("run", *tiny_options(), *rounds, f"--results={tmp_path}", "--name=seen")
    assert terminal.end() == 0
    told = terminal.text
    assert "clients 0 ✓" in re.sub(r"\s+", " ", told)
    assert re.search(r"robust accuracy +\d+\.\d % +[▁▂▃▄▅▆▇█]+ +n = 40", told)
    assert re.search(r"memory \d+\.\d GB", told)
    lines = re.split(r"[\r\n]+", told)
    assert sum(bool(re.match(r"round \d/9  natural", line)) for line in lines) == 9
    assert any(line.startswith("final  natural") for line in lines)
    assert terminal.cursor


def test_the_first_ctrl_c_says_how_to_go_on_and_the_second_ends_at_once(tmp_path: Path) -> None:
    rounds = ["--set", "federation.rounds=500"]  # more than there is time for
    terminal = Terminal("run", *tiny_options(), *rounds, f"--results={tmp_path}", "--name=stopped")
    terminal.until(lambda text: "round 2/500  natural" in text)
    terminal.until(lambda text: re.search(r"round \d+/500 +client \d+/10", text) is not None)  # few are drawn: short
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.end(60) == 130
    assert re.search(r"Stopped after round \d+; continue with: fedshield run --resume", terminal.text)
    assert terminal.cursor
    again = Terminal("run", "--resume", str(tmp_path / "stopped"))
    again.until(lambda text: re.search(r"client \d+/10", text) is not None)
    done = len(read_metrics(tmp_path / "stopped"))
    for _ in range(2):
        os.killpg(again.process.pid, signal.SIGINT)
        time.sleep(0.01)
    assert again.end(5) in (-signal.SIGINT, 130)
    assert again.cursor
    assert len(read_metrics(tmp_path / "stopped")) >= done


def test_programs_get_a_line_of_json_for_each_event_and_words_stay_out_of_it(tmp_path: Path) -> None:
    done = fedshield("run", *tiny_options(), f"--results={tmp_path}", "--name=json", "--json")
    assert done.returncode == 0, done.stderr
    start, *rounds, final, end = map(json.loads, done.stdout.splitlines())
    assert start == {"event": "start", "path": str(tmp_path / "json")}
    assert rounds == [{"event": "round", **line} for line in read_metrics(tmp_path / "json")]
    assert final == {"event": "final", **json.loads((tmp_path / "json" / "summary.json").read_text())}
    assert end == {"event": "end", "path": str(tmp_path / "json")}
    assert "round 2/2  natural" in done.stderr


def test_quiet_tells_nothing_but_what_is_wrong(tmp_path: Path) -> None:
    done = fedshield("run", *tiny_options(), f"--results={tmp_path}", "--name=quiet", "--quiet")
    assert done.returncode == 0
    assert done.stdout == ""
    assert "round" not in done.stderr
    both = fedshield("run", "--quiet", "--json")
    assert (both.returncode, both.stderr) == (1, "fedshield: --quiet and --json: give one of them\n")


@pytest.mark.parametrize(
    ("values", "drawn"), [([10.0, 20.0, 45.0], "▁▃█"), ([10.0, 10.0], "▁▁"), ([3.0, 2.0, 1.0, 3.0], "█▅▁█")]
)
def test_a_trend_goes_from_its_lowest_value_to_its_highest(values: list[float], drawn: str) -> None:
    assert sparks(values) == drawn


def test_a_client_is_green_red_or_of_the_round_before() -> None:
    view = LiveView(Console(), "round", 3, 0, "first", clients=70)
    view.client(0, 1.25, 1)
    view.client(1, None, 2)
    view.client(99, 1.0, 3)  # a number that nobody has

    def clients(width: int = 2000) -> tuple[str, list[str]]:
        console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        console.print(view)
        line = next(line for line in console.export_text().splitlines() if line.startswith("clients"))
        return line, [str(text.style) for text in view._clients[:2]]

    line, looks = clients()
    words = " ".join(line.split())
    assert words.startswith("clients 0 ✓ 1.2 s 1 ✗ 2 ·")
    assert words.endswith("59 · and 10 more")
    assert looks == ["green", "red"]
    view.client(5, 1.0, 1)
    assert clients()[1] == ["dim", "dim"]
