"""The documentation as a site, in a real browser: nothing runs off the page, on a laptop or on a phone."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from common.paths import ROOT
from tests.helpers.bench import BIN

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium")
_WIDER = """() => [document.documentElement, ...document.querySelectorAll("pre code")]
    .filter(part => part.scrollWidth > part.clientWidth + 1).map(part => part.innerText.slice(0, 200))"""
_TABLES = """() => [...document.querySelectorAll(".md-typeset__scrollwrap")]
    .filter(part => part.scrollWidth > part.clientWidth + 1).map(part => part.innerText.slice(0, 200))"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", place / "docs")
    shutil.copy(ROOT / "mkdocs.yml", place)
    subprocess.run(
        [BIN / "zensical", "build", "--clean", "-f", "mkdocs.yml"], cwd=place, check=True, capture_output=True
    )
    found = sorted((place / "site").rglob("index.html"))
    assert len(found) >= len(list((ROOT / "docs").glob("*.md")))
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as engine:
        yield engine.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_and_no_block_of_code_is_wider_than_the_window(pages: list[Path], browser: Browser, width: int) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900})
    for page in pages:
        tab.goto(page.as_uri())
        assert tab.evaluate(_WIDER) == [], page
        if width == 1280:  # on a phone, a wide table scrolls in its own frame
            assert tab.evaluate(_TABLES) == [], page
    tab.close()


def test_each_key_of_the_reference_has_an_address(pages: list[Path], browser: Browser) -> None:
    reference = next(page for page in pages if page.parent.name == "reference")
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(reference.as_uri() + "#attack.epsilon-255")
    place = tab.locator("[id='attack.epsilon-255']")
    assert "attack.epsilon-255" in place.locator("xpath=..").inner_text()
    assert 0 <= tab.evaluate("document.getElementById('attack.epsilon-255').getBoundingClientRect().top") < 900
    tab.close()
