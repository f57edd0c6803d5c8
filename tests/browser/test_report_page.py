"""The pages of `agentrl report` and of a training run, opened from disk in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentrl.bench.compare import comparisons
from agentrl.bench.records import read_record
from agentrl.bench.views.report.page import write_bench_report, write_picture
from agentrl.bench.views.run_report import write_report
from tests.bench.views.report.generated import Ledger, Writer
from tests.browser.conftest import Browser, assert_fits, bench, episode, until, write, write_metrics

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two agents side by side on 40 tasks of 4 trials, with their difference."""
    root = tmp_path_factory.mktemp("runs")
    for name, skill in (("good", 0.9), ("poor", 0.4)):
        bench(Ledger, Writer(name, skill), out=root / name, num_tasks=40, trials=4)
    folders = [root / "good", root / "poor"]
    found = comparisons([read_record(folder) for folder in folders])
    write_picture(root / "picture.svg", found)
    return write_bench_report(folders, root / "report.html", found)


def test_filters_and_keys_choose_transcripts(browser: Callable[..., Browser], report: Path) -> None:
    user = browser()
    page = user.open(report.as_uri())
    page.wait_for_selector("#list button")
    assert page.locator("#fallback").is_hidden()
    assert page.locator("#map .cell").count() == 320
    count = page.locator("#count")
    page.get_by_label("Run", exact=True).select_option("poor")
    page.get_by_label("Outcome").select_option("solved")
    until(page, lambda: "of 320 episodes" in count.inner_text() and not count.inner_text().startswith("320"))
    solved = int(count.inner_text().split()[0])
    assert 0 < solved < 160
    assert page.locator("#map .cell:not(.off)").count() == solved
    page.get_by_label("Search").fill("Book 11,")
    until(page, lambda: int(count.inner_text().split()[0]) <= 4)
    page.get_by_role("button", name="Reset").click()
    until(page, lambda: count.inner_text().startswith("320"))
    page.locator("h1").click()
    first = page.locator("#shown").inner_text()
    page.keyboard.press("j")
    assert page.locator("#shown").inner_text() != first
    page.keyboard.press("k")
    assert page.locator("#shown").inner_text() == first
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("jk")
    assert page.evaluate("document.activeElement.value") == "jk"
    page.get_by_role("button", name="Reset").click()
    page.locator("#map .cell.limit").first.click()
    assert "cut off" in page.locator("#shown").inner_text()
    assert page.locator("#shown .side").count() == 2, "the other agent's episode of the same task and trial"
    assert (user.left_the_machine, user.complaints) == ([], [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_fits_wide_and_narrow_windows(scheme: str, browser: Callable[..., Browser], report: Path) -> None:
    user = browser(color_scheme=scheme)
    page = user.open(report.as_uri())
    page.wait_for_selector("#list button")
    assert_fits(page, f"report-{scheme}")
    (report.parent / "readme.html").write_text('<!doctype html><img src="picture.svg" style="max-width: 100%">')
    page.goto((report.parent / "readme.html").as_uri())
    assert_fits(page, f"picture-{scheme}")
    assert (user.left_the_machine, user.complaints) == ([], [])


def test_without_scripts_every_number_is_there(browser: Callable[..., Browser], report: Path) -> None:
    user = browser(java_script_enabled=False)
    page = user.open(report.as_uri())
    assert page.locator("#fallback").is_visible()
    assert page.locator("svg").count() >= 2
    assert page.get_by_role("heading", name="Numbers").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_of_a_training_run_fits_and_answers_the_pointer(
    scheme: str, browser: Callable[..., Browser], tmp_path: Path
) -> None:
    write(tmp_path, *(episode(n) for n in range(40)))
    write_metrics(tmp_path, *range(1, 21))
    user = browser(color_scheme=scheme)
    page = user.open(write_report(tmp_path).as_uri())
    page.locator("svg.chart").first.hover()
    assert "step" in page.locator("#tip").inner_text()
    assert_fits(page, f"training-{scheme}")
    assert (user.left_the_machine, user.complaints) == ([], [])
