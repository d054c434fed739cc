"""An exported model is what RobustBench takes, measured by the real package in an environment of its own.

Needs uv and a package index: ``uv run --group dev pytest nightly/test_robustbench.py -n 0``, three minutes, and 6 GB
of packages unless uv has them. RobustBench wants AutoAttack from a repository; the index has a fork, ``pyautoattack``.
"""

import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from common.attacks.threat import Threat
from common.evaluation.evaluate import evaluate
from common.exported import load_exported
from common.factory import test_data as read_test
from common.paths import ROOT
from server.run_directory.restored import stored_config
from simulations.export.formats import export_run
from tests.helpers.runs import run

PACKAGES = ("robustbench==1.1.1", "pyautoattack==0.2.0", "setuptools<81", "safetensors", f"torch=={version('torch')}")


def test_robustbench_measures_what_we_measure(tmp_path: Path) -> None:
    run_dir = run(tmp_path, "quick", model__width=16, data__max_examples=1500, federation__rounds=4)
    exported, _ = export_run(run_dir, "safetensors")
    test = read_test(stored_config(run_dir, {}, "options")).take(np.arange(100))
    np.savez(tmp_path / "images.npz", images=test.images.astype(np.float32) / 255, labels=test.labels)

    packages = [part for package in PACKAGES for part in ("--with", package)]
    place = ("uv", "run", "--isolated", "--no-project", *packages, "python", "-W", "ignore")
    script = ROOT / "nightly" / "robustbench_check.py"
    done = subprocess.run(
        [*place, script, ROOT, exported, tmp_path / "images.npz"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.split("RESULT ")[1])

    threat = Threat.from_255(8, 2, 10)
    ours = evaluate(load_exported(exported), test.images, test.labels, ("apgd-ce", "apgd-t"), threat, 1, 100)
    assert theirs["natural"] == pytest.approx(ours.natural.value)
    assert ours.natural.value > 0.3  # it has learnt something
    assert theirs["change"] <= 8 / 255 + 1e-6
    # Both start at random; three of 100 images.
    assert theirs["robust"] == pytest.approx(ours.values()["worst"], abs=0.03)
