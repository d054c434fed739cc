"""What a machine has: cores, GPUs that a process may not see, and the program without an installation."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.machine import cpu_quota, hidden_gpu
from common.paths import ROOT


@pytest.mark.parametrize(("visible", "expected"), [("", True), ("-1", True), ("0", False), (None, False)])
def test_a_gpu_that_the_environment_hides_is_noticed(
    visible: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "nvidia0"
    device.touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hidden_gpu(device) == expected
    assert not hidden_gpu(tmp_path / "none")


def test_memory_that_a_batch_frees_is_there_for_the_next_one() -> None:
    # 24 MB on top of the heap, freed and taken again: glibc by default gives it back, and each page comes anew.
    asked = (
        "import resource, sys, numpy as np\n"
        "from common.machine import keep_freed_memory\n"
        "assert keep_freed_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for turn in range(12):\n"
        "    if turn == 2:\n"
        "        before = faults()\n"
        "    arrays = [np.ones(2**20) for _ in range(3)]\n"
        "    del arrays\n"
        "sys.stdout.write(str(faults() - before))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
    assert int(shown.stdout) < 1000  # of the 60,000 pages of ten turns


def test_openmp_waits_without_computing() -> None:
    asked = "import common.paths, torch; print(torch.__config__.parallel_info())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "true"}
    environment.pop("OMP_WAIT_POLICY", None)
    shown = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in shown.stderr


def test_the_program_runs_as_a_module_and_without_an_installation(tmp_path: Path) -> None:
    # As on a machine where only the folder is there: the name of the distribution is unknown.
    hide = tmp_path / "sitecustomize.py"
    hide.write_text(
        "import importlib.metadata as m\n"
        "version = m.version\n"
        "def hidden(name):\n"
        "    if name == 'fedshield':\n"
        "        raise m.PackageNotFoundError(name)\n"
        "    return version(name)\n"
        "m.version = hidden\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "simulations.cli", "doctor"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "it runs from its source" in " ".join(shown.stdout.split())


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({}, math.inf),
    ],
)
def test_a_container_has_the_cores_that_its_limit_allows(files: dict[str, str], cores: float, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cpu_quota(tmp_path) == cores
