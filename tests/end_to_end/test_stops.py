"""Commands that are stopped, or lack something: real processes end with one line, and what is finished stays so."""

import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from tests.helpers.program import PROGRAM, fedshield, tiny_options
from tests.helpers.settings import until

GIB = 2**30


def started(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [PROGRAM, *arguments],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("command", "unit"), [("run", "round"), ("centralized", "epoch")])
def test_sigterm_stops_as_ctrl_c_does_however_often_it_comes(tmp_path: Path, command: str, unit: str) -> None:
    options = tiny_options(federation__rounds=500, centralized__epochs=500)
    process = started(command, *options, "--results", str(tmp_path), "--name", "part")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"{unit} 2/500"):
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
            break
    rest, complaint = process.communicate(timeout=300)
    assert process.returncode == 130
    assert f"continue with: fedshield {command} --resume {tmp_path / 'part'}" in rest
    assert complaint == "fedshield: interrupted\n"
    assert (tmp_path / "part" / "checkpoint" / "checkpoint.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_commands_are_imported_is_one_line(tmp_path: Path, number: signal.Signals) -> None:
    # A module that is found before the real one, and says when the imports have come to it.
    mark = tmp_path / "importing"
    (tmp_path / "typer.py").write_text(f"import pathlib, time\npathlib.Path({str(mark)!r}).touch()\ntime.sleep(600)\n")
    process = started("run", environment={"PYTHONPATH": str(tmp_path)})
    try:
        until(mark.exists)
        process.send_signal(number)
        told, complaint = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, told, complaint) == (130, "", "fedshield: interrupted\n")


def test_a_thread_of_a_users_network_does_not_keep_a_finished_run_alive(tmp_path: Path) -> None:
    code = tmp_path / "own.py"
    code.write_text(
        "import threading, time\nfrom torch import nn\n\n"
        "def network(classes):\n"
        "    threading.Thread(target=time.sleep, args=[100_000], name='of mine').start()\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, classes))\n"
    )
    options = tiny_options(model__name=f"{code}:network", federation__rounds=1)
    done = fedshield("run", *options, "--engine", "inprocess", "--results", str(tmp_path), "--name", "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"Run directory: {tmp_path}/run"
    assert done.stderr.startswith("fedshield: has finished, and ends without the threads that still run after 10 s: ")
    assert "'of mine'" in done.stderr
    assert (tmp_path / "run" / "figures" / "accuracy.png").exists()


def limited(kind: int, limit: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    def lower() -> None:
        resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))

    return subprocess.run(
        [PROGRAM, *arguments], preexec_fn=lower, capture_output=True, text=True, timeout=300, check=False
    )


def test_too_little_memory_for_the_libraries_is_one_line(tmp_path: Path) -> None:
    done = limited(resource.RLIMIT_AS, GIB, "run", *tiny_options(), "--results", str(tmp_path))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("fedshield: ")
    assert "not enough memory: raise the limit of this shell (ulimit -v)" in line


def test_figures_that_cannot_be_drawn_do_not_fail_a_finished_run(tmp_path: Path) -> None:
    arguments = "run", *tiny_options(federation__rounds=1), "--results", str(tmp_path), "--name", "run"
    done = limited(resource.RLIMIT_AS, 30 * GIB, *arguments)  # enough for all but the engine that draws
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.splitlines()[-1]
    assert told.startswith(f"{tmp_path}/run/figures/accuracy.png: cannot be drawn here")
    assert told.endswith(f"draw the figures with: fedshield run --resume {tmp_path}/run")
    assert fedshield("run", "--resume", str(tmp_path / "run")).returncode == 0
    assert (tmp_path / "run" / "figures" / "accuracy.png").exists()


def test_too_few_open_files_are_one_line(tmp_path: Path) -> None:
    done = limited(resource.RLIMIT_NOFILE, 6, "run", *tiny_options(), "--results", str(tmp_path))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("Too many open files; raise the limit, for example with: ulimit -n 1024")
