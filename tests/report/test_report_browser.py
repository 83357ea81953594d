"""The report in a real browser: opened from disk without a network, every filter used, a tree unfolded, a vote read.

Debian's packages chromium and chromium-driver are enough; `.ci/run` installs them. Without them these tests are
skipped, which is a failure where CI is true.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsing import Page
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from stepagent.report.page import write_report

SIZES = [(1280, 900), (800, 900), (400, 800)]


def check_filters(page: Page) -> None:
    """Every filter, alone, lists trees that bear its badge, and no more than all."""
    everything = page.count()
    assert page.all("[data-filter]")
    for button in page.all("[data-filter]"):
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        assert 0 < page.count() <= everything
        words = button.text.rpartition(" ")[0] if button.text[-1].isdigit() else button.text
        assert words.strip() in page.one("#tree-list li").text.replace("\n", " ")
        button.click()
    assert page.count() == everything


def check_tree(page: Page) -> None:
    """A tree is opened by the keyboard, its votes unfolded, both orders read."""
    first = page.one("#tree-list button")
    first.send_keys(Keys.ENTER)
    assert first.get_attribute("aria-current") == "true"
    assert page.all("#tree-view .step.kept")
    details = page.one("#tree-view details.votes")
    details.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    WebDriverWait(page.browser, 5).until(lambda _: page.all("#tree-view .vote"))
    orders = [heading.text for heading in page.all("#tree-view .vote:first-of-type h4")]
    assert {order.partition(":")[0] for order in orders[:2]} == {"1 first, 2 second", "2 first, 1 second"}
    assert page.one("#tree-view .vote .text").text.strip()


def check_looks(page: Page) -> None:
    """At three sizes, light and dark: no sideways scrolling of the page, readable contrast, plots in its colours."""
    for scheme in ("light", "dark"):
        for width, height in SIZES:
            page.look(width, height, scheme)
            assert page.script("return document.documentElement.scrollWidth <= window.innerWidth")
            for selector in ("body", ".quiet", "caption, th", "svg.plot text"):
                assert contrast(page, selector) > 4.5, (scheme, width, selector)
    page.look(*SIZES[0], "light")


def contrast(page: Page, selector: str) -> float:
    """Return WCAG's contrast of the first such element's text with what lies behind it."""
    channels = page.script(
        """
        const element = document.querySelector(arguments[0]);
        const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
        const style = getComputedStyle(element);
        const ink = numbers(element.closest("svg") ? style.fill : style.color);
        let place = element, back = [0, 0, 0, 0];
        while (place && (back.length === 4 && back[3] === 0)) {
          back = numbers(getComputedStyle(place).backgroundColor); place = place.parentElement;
        }
        return [ink.slice(0, 3), back.slice(0, 3)];
        """,
        selector,
    )

    def luminance(colour: list[float]) -> float:
        parts = [(c / 255) / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(colour) for colour in channels), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_report_of_a_run_works_by_itself(browser: webdriver.Chrome, run: Path) -> None:
    path = write_report(run)
    page = Page(browser, path.as_uri())
    check_filters(page)
    check_tree(page)
    check_looks(page)
    Select(page.one("#tree-file")).select_by_visible_text("M_1, held-out problems (2)")
    assert page.count() == 2
    Select(page.one("#tree-file")).select_by_index(0)
    Select(page.one("#tree-order")).select_by_value("margin")
    assert "p2" in page.one("#tree-list li").text
    Select(page.one("#tree-order")).select_by_value("length")
    assert "p1" in page.one("#tree-list li").text
    assert page.search("B IS RIGHT: ONE AND ONE MORE") == 1
    assert page.search("no such words") == 0
    assert page.loaded() == {path.as_uri()}
    assert page.console() == []


def test_two_models_stand_beside_each_other(browser: webdriver.Chrome, run: Path) -> None:
    page = Page(browser, write_report(run).as_uri())
    Select(page.one("#tree-file")).select_by_visible_text("M_1, held-out problems (2)")
    page.one('[data-filter="changed"]').click()
    page.one("#tree-list button").click()
    buttons = [button.text for button in page.all(".others button")]
    assert buttons == ["M_2, held-out problems", "M_3, held-out problems"]
    page.all(".others button")[1].click()
    titles = [title.text for title in page.all("#tree-view article > h4")]
    assert titles == ["M_1, held-out problems", "M_3, held-out problems"]
    assert page.script("return document.activeElement.textContent") == "M_3, held-out problems"
    boxes = [article.rect for article in page.all("#tree-view article")]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]


def test_no_attack_runs(browser: webdriver.Chrome, run: Path, hostile_run: Callable[[Path], None]) -> None:
    hostile_run(run)
    path = write_report(run)
    page = Page(browser, path.as_uri())
    for button in page.all("#tree-list button"):
        page.script("arguments[0].click()", button)
    page.script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    WebDriverWait(browser, 5).until(lambda _: page.all("#tree-view"))
    assert page.script("return window.hacked") is None
    assert "<script>window.hacked = 1</script>" in page.script("return document.body.textContent")
    assert page.script("return getComputedStyle(document.body).display") == "block"
    assert page.script("return document.querySelectorAll('img, iframe, form[action], link, base').length") == 0
    assert browser.current_url == path.as_uri()
    assert page.loaded() == {path.as_uri()}
    assert page.console() == []


def test_the_policy_refuses_a_script_that_gets_in(browser: webdriver.Chrome, run: Path) -> None:
    path = write_report(run)
    path.write_text(path.read_text().replace("</main>", "<script>window.hacked = 1</script><img src=x></main>"))
    page = Page(browser, path.as_uri())
    assert page.script("return window.hacked") is None
    assert len(page.console()) == 2


@pytest.mark.slow
def test_the_report_of_a_demo_run(browser: webdriver.Chrome, demo_run: Path, tables: Callable[[Path], Any]) -> None:
    path = demo_run / "report.html"
    assert 100_000 < path.stat().st_size < 5_000_000
    page = Page(browser, path.as_uri())
    assert {"Result", "The circle, with its numbers", "Trees"} <= {title.text for title in page.all("h2")}
    assert len(page.all("svg.plot")) >= 5
    check_filters(page)
    assert (
        0
        < page.search("held_out-")
        < len(page.script("return JSON.parse(document.getElementById('tree-data').textContent).trees"))
    )
    check_tree(page)
    check_looks(page)
    assert page.loaded() == {path.as_uri()}
    assert page.console() == []
    text = tables(path).text
    assert "Not in this report" not in text
