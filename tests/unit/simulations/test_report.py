"""Reports, opened in a real browser without a network: they draw, turn pages, and have the numbers of the files."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, sync_playwright
from playwright.sync_api import Page as Tab

from common.errors import FedShieldError
from common.paths import ROOT
from server.run_directory.reader import read_metrics
from simulations.reports.html.page import Fact, Page, Section, Table, Text, render
from simulations.reports.html.write import write_report
from tests.helpers.runs import run

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
STUDY = ROOT / "docs" / "results" / "cpu-methods"
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs"), "finished")


@pytest.fixture(scope="module")
def context() -> Iterator[BrowserContext]:
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser.new_context(offline=True, viewport={"width": 400, "height": 800})
        browser.close()


@pytest.fixture
def tab(context: BrowserContext) -> Iterator[Tab]:
    with context.new_page() as page:
        yield page


@pytest.fixture
def complaints(tab: Tab) -> list[str]:
    """What the browser's console says, and what the page has tried to load."""
    found: list[str] = []
    tab.on("console", lambda message: found.append(message.text))
    tab.on("pageerror", lambda error: found.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else found.append(request.url))
    return found


def rows(tab: Tab, heading: str) -> list[dict[str, Any]]:
    """What the chart under a heading draws."""
    spec = tab.locator(f"section:has(h2:text-is('{heading}')) script[type='application/json']").first.text_content()
    found: list[dict[str, Any]] = next(iter(json.loads(spec or "")["datasets"].values()))
    return found


@needs_browser
def test_a_runs_report_draws_offline_and_has_the_numbers_of_its_files(
    finished: Path, tab: Tab, complaints: list[str]
) -> None:
    path = write_report(finished)
    assert path == finished / "report.html"
    assert path.stat().st_size < 5e6
    tab.goto(path.as_uri())
    charts = tab.locator(".chart")
    assert charts.count() == 4
    for place in range(charts.count()):
        charts.nth(place).locator("svg").wait_for()
    drawn = {(row["round"], row["measure"]): row for row in rows(tab, "Accuracy over rounds")}
    for line in read_metrics(finished):
        for name, rate in {"natural": line["evaluation"]["natural"], **line["evaluation"]["robust"]}.items():
            row = drawn[line["round"], name]
            assert row["accuracy"] == pytest.approx(100 * rate["value"])
            assert [row["low"], row["high"]] == pytest.approx([100 * end for end in rate["interval"]])
    final = json.loads((finished / "summary.json").read_text())["final"]
    facts = tab.locator(".facts").inner_text()
    for name in ("natural", "worst"):
        assert f"{100 * final[name]['value']:.1f} %" in facts
    assert f"n = {final['n']}" in facts
    assert tab.evaluate("document.documentElement.scrollWidth") == 400  # nothing hangs over on a telephone
    assert complaints == []


# The text of least contrast to what is behind it (WCAG 2.2: at least 4.5 to 1), with its ratio.
FAINTEST = """() => {
    const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = (color) => parts(color).slice(0, 3).map((value) => value / 255)
        .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
    const behind = (element) => {
        for (; element; element = element.parentElement) {
            const color = getComputedStyle(element).backgroundColor;
            if ((parts(color)[3] ?? 1) > 0) return color;
        }
        return "rgb(255, 255, 255)";
    };
    const written = [...document.body.querySelectorAll("*:not(script)")].filter((element) =>
        element.getClientRects().length &&
        [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()));
    const found = written.map((element) => {
        const style = getComputedStyle(element);
        const [low, high] = [light(element.closest("svg") ? style.fill : style.color), light(behind(element))]
            .sort((one, other) => one - other);
        return [(high + 0.05) / (low + 0.05), `${element.tagName} ${element.textContent.trim().slice(0, 40)}`];
    });
    return found.reduce((least, each) => each[0] < least[0] ? each : least);
}"""


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("of", "media", "width"),
    [
        *((of, "screen", width) for of in ("run", "study") for width in (1600, 400)),
        *((of, "print", 718) for of in ("run", "study")),  # A4
    ],
)
def test_a_report_can_be_read_on_a_wide_screen_in_the_dark_and_on_paper(
    finished: Path, tmp_path: Path, tab: Tab, complaints: list[str], of: str, media: Any, width: int, scheme: Any
) -> None:
    tab.set_viewport_size({"width": width, "height": 900})
    tab.emulate_media(media=media, color_scheme=scheme)
    tab.goto(write_report(finished if of == "run" else STUDY, tmp_path / "report.html").as_uri())
    for place in range(tab.locator(".chart").count()):
        tab.locator(".chart").nth(place).locator("svg").wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    contrast, words = tab.evaluate(FAINTEST)
    assert contrast >= 4.5, words
    dark = scheme == "dark" and media == "screen"
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    assert complaints == []


@needs_browser
def test_values_show_under_the_pointer_and_pages_turn(finished: Path, tab: Tab, complaints: list[str]) -> None:
    tab.goto(write_report(finished).as_uri())
    tab.locator(".chart svg").first.wait_for()
    tab.locator(".chart").first.locator("path[aria-label*='natural']").last.hover()
    assert "natural" in tab.locator("#vg-tooltip-element").inner_text()
    shown, count = tab.locator(".picture.shown"), tab.locator(".picture").count()
    first = shown.locator("img").first.get_attribute("src")
    assert tab.locator("output").inner_text() == f"1 of {count}"
    tab.locator("button", has_text="next").click()
    assert tab.locator("output").inner_text() == f"2 of {count}"
    assert shown.count() == 1
    assert shown.locator("img").first.get_attribute("src") != first
    tab.keyboard.press("ArrowLeft")
    tab.locator("button", has_text="previous").click()
    assert tab.locator("output").inner_text() == f"{count} of {count}"
    assert complaints == []


@needs_browser
def test_a_studys_report_has_the_tables_of_the_study(tmp_path: Path, tab: Tab, complaints: list[str]) -> None:
    tab.goto(write_report(STUDY, tmp_path / "methods.html").as_uri())
    for place in range(tab.locator(".chart").count()):
        tab.locator(".chart").nth(place).locator("svg").wait_for()
    differences = tab.locator("section:has(h2:text-is('Differences')) tbody tr")
    cells = differences.filter(has_text="sharing").first.locator("td").all_inner_texts()
    # As tables.md has it, broken before the interval; marked where the interval leaves out 0.
    assert cells[:4] == ["sharing", "paper", "3", "+9.1\n[+6.0, +12.1] ●"]
    assert len(rows(tab, "Figures")) == 54
    results = tab.locator("section:has(h2:text-is('Results'))")
    assert results.locator("table").count() == 2  # over the seeds; over seeds and test images together
    assert "●" not in results.inner_text()
    assert complaints == []


@needs_browser
def test_what_names_hold_is_shown_and_not_run(tmp_path: Path, tab: Tab, complaints: list[str]) -> None:
    evil = "<script>document.title = 'run'</script>"
    table = Table([evil], [[evil]])
    (tmp_path / "page.html").write_text(
        render(Page(evil, evil, [Fact(evil, evil, evil)], [evil], [Section(evil, [Text(evil), table])]))
    )
    tab.goto((tmp_path / "page.html").as_uri())
    assert tab.title() == evil
    assert tab.locator("td").inner_text() == evil
    assert complaints == []


def test_an_unfinished_run_is_called_so_and_half_a_line_is_passed_over(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / "half")
    (copy / "summary.json").unlink()
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    (copy / "metrics.jsonl").write_text(lines[0] + "\n" + lines[1][:50])
    text = write_report(copy).read_text()
    assert "This run is unfinished, 1 of 2 rounds are done: the figures are those of round 1." in text
    assert "Adversarial examples" in write_report(finished).read_text()
    assert "Adversarial examples" not in text  # the kept ones are of another model
    (copy / "metrics.jsonl").unlink()
    assert "0 of 2 rounds are done: nothing was evaluated yet." in write_report(copy).read_text()


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("metrics.jsonl", '{"round": 1}\n{"rou\n{"round": 3}\n', "metrics.jsonl: line 2 is damaged"),
        ("summary.json", "{", "summary.json: damaged (not valid JSON)"),
        ("metrics.jsonl", '{"number": 1}\n', "metrics.jsonl: line 1: damaged, or of another version of"),
        ("config.json", "[]", "config.json: damaged (not a JSON object)"),
    ],
)
def test_damaged_files_are_named(finished: Path, tmp_path: Path, name: str, content: str, complaint: str) -> None:
    copy = shutil.copytree(finished, tmp_path / "damaged", ignore=shutil.ignore_patterns("report.html"))
    (copy / name).write_text(content)
    with pytest.raises(FedShieldError, match=re.escape(complaint)) as caught:
        write_report(copy)
    assert "\n" not in str(caught.value)
    assert not (copy / "report.html").exists()


def test_what_is_neither_and_what_cannot_be_written_are_told(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(FedShieldError, match="neither a run nor a study"):
        write_report(tmp_path)
    with pytest.raises(FedShieldError, match="is a directory; name a file"):
        write_report(finished, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FedShieldError, match=r"report\.html: "):
        write_report(finished, tmp_path / "file" / "report.html")
