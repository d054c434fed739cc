"""The page about Python and the notebook, run as they are printed."""

import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import fedshield
from common.paths import ROOT
from tests.helpers.cells import run_cell
from tests.helpers.pages import blocks

SHORT: dict[str, Any] = {
    "data.max-examples": 300,
    "model.width": 4,
    "evaluate.examples": 20,
    "evaluate.final-examples": 20,
    "evaluate.final-attacks": "pgd-2",
}


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, and for a short time, in this process."""
    monkeypatch.chdir(tmp_path)
    whole = fedshield.run
    monkeypatch.setattr(
        fedshield,
        "run",
        lambda *given, **keys: whole(*given, **{**keys, "rounds": 1, "engine": "inprocess", **SHORT}),
    )


@pytest.mark.usefixtures("short")
def test_the_code_of_the_page_runs() -> None:
    run_cell(blocks("python.md")[0])


def test_objects_train_as_printed_and_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made shorter: settings of a test hid that the network of the page diverged with the defaults."""
    monkeypatch.chdir(tmp_path)
    _, objects, _, measure = blocks("python.md")
    names = run_cell(objects)
    assert names["run"].metrics["natural"].iloc[-1] > 0.15  # chance is 0.1
    run_cell(measure.replace("pgd-20x5,autoattack", "fgsm,pgd-2").replace("[:200]", "[:20]"), names)
    assert names["found"].evaluation.n == 20


@pytest.mark.usefixtures("short")
def test_the_example_of_the_readme_runs() -> None:
    (example,) = (block for block in blocks("../README.md") if block.startswith("import fedshield"))
    run_cell(example.replace("pgd-20x5", "pgd-2").replace("examples=200", "examples=20"))


def test_what_the_page_says_of_images_names_arguments_that_there_are() -> None:
    images = blocks("python.md")[2]
    assert {*re.findall(r"(\w+)=", images)} == {"data", "test"}
    assert {"data", "test"} <= {*(fedshield.run.__kwdefaults__ or {})}


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel(tmp_path: Path) -> None:
    """As it is, in a process of its own, with the engine that a run chooses itself."""
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    text = "".join(output.text for outputs in cells for output in outputs if output.output_type == "stream")
    assert "round 5/5" in text
    assert "\x1b" not in text
    shown = [output.data for outputs in cells for output in outputs if output.output_type == "execute_result"]
    assert shown[0]["text/html"].count("<img ") == 2
    assert "natural" in shown[1]["text/html"]
    assert len([*tmp_path.glob("runs/*/report.html")]) == 1


@pytest.mark.usefixtures("short")
def test_the_cells_of_the_notebook_run() -> None:
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    names = None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            names = run_cell(cell.source, names)
    assert names is not None
    assert names["run"].finished
    assert np.isfinite(names["found"].robust_accuracy)
