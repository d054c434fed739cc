"""``fedshield report --watch``: a page that reads itself again as long as the run goes on."""

import shutil
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from common.errors import FedShieldError
from simulations.reports.html.write import watch_report
from tests.helpers.program import invoke, tiny_options
from tests.helpers.settings import until

REFRESH = 'http-equiv="refresh" content="5"'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("watched")
    done = invoke("run", *tiny_options(), "--engine", "inprocess", "--results", place, "--name", "run")
    assert done.returncode == 0, done.stderr
    return place / "run"


def test_the_page_reads_itself_again_until_the_run_ends(run: Path, tmp_path: Path) -> None:
    going = shutil.copytree(run, tmp_path / "going")
    summary = (going / "summary.json").read_bytes()
    (going / "summary.json").unlink()
    page, told = going / "report.html", list[str]()
    with FileLock(going / ".lock"):
        watching = threading.Thread(target=watch_report, args=[going, None, told.append, 0.05])
        watching.start()
        until(lambda: page.exists() and REFRESH in page.read_text())
        assert "unfinished" in page.read_text()
        lines = (going / "metrics.jsonl").read_text()
        first = page.stat().st_mtime_ns
        (going / "metrics.jsonl").write_text(lines.splitlines(keepends=True)[0])
        until(lambda: page.stat().st_mtime_ns != first)
        (going / "metrics.jsonl").write_text(lines)
        (going / "summary.json").write_bytes(summary)
    watching.join(60)
    assert REFRESH not in page.read_text()
    assert "unfinished" not in page.read_text()
    assert told[0] == f"Report: {page}"
    assert told[-1] == "The run goes on no more; the report is as it ended"


def test_a_run_that_has_just_begun_is_waited_for(run: Path, tmp_path: Path) -> None:
    going, told = shutil.copytree(run, tmp_path / "going"), list[str]()
    lines = (going / "metrics.jsonl").read_bytes()
    for name in ("summary.json", "metrics.jsonl"):
        (going / name).unlink()
    with FileLock(going / ".lock"):
        watching = threading.Thread(target=watch_report, args=[going, None, told.append, 0.05])
        watching.start()
        until(lambda: bool(told))
        assert told == ["The run has no round yet; the report is written after the first one"]
        (going / "metrics.jsonl").write_bytes(lines)
        until(lambda: REFRESH in (going / "report.html").read_text() if (going / "report.html").exists() else False)
    watching.join(60)
    assert told[-1] == "The run goes on no more; the report is as it ended"


def test_a_run_that_has_ended_is_not_watched(run: Path, tmp_path: Path) -> None:
    done = invoke("report", run, "--watch", "--out", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert REFRESH not in (tmp_path / "page.html").read_text()
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.toml").write_text("")
    with pytest.raises(FedShieldError, match="shows one run"):
        watch_report(tmp_path / "study", None, lambda line: None)
