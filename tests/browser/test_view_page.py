"""`agentrl view` in a browser: what a person sees and does, while a run writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentrl.rollout.store import TrajectoryStore
from tests.browser.conftest import Browser, assert_fits, bench, episode, until, viewing, write, write_metrics

pytestmark = pytest.mark.browser
SHOP = "agentrl/Shop-v0"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A training run of a lamp, and a benchmark of a shop."""
    (tmp_path / "lamp").mkdir()
    write(tmp_path / "lamp", *(episode(n) for n in range(40)))
    write_metrics(tmp_path / "lamp", *range(1, 21))
    bench(SHOP, "oracle", out=tmp_path / "shop", num_tasks=6, references=False)
    return tmp_path


@pytest.fixture
def address(runs: Path) -> Iterator[str]:
    with viewing(runs) as url:
        yield url


def opened(browser: Callable[..., Browser], address: str, run: str, tab: str = "Episodes") -> tuple[Browser, Any]:
    """The page of a run."""
    user = browser()
    page = user.open(address)
    page.get_by_role("link", name=run, exact=True).click()
    page.locator(".tabs").get_by_role("link", name=tab).click()
    return user, page


def lines(page: Any) -> list[str]:
    return page.locator("tbody tr.item td:first-child").all_inner_texts()


def untroubled(user: Browser) -> None:
    assert user.complaints == []
    assert user.left_the_machine == []


def test_rows_and_curves_appear_while_a_run_writes(browser: Callable[..., Browser], address: str, runs: Path) -> None:
    user, page = opened(browser, address, "lamp")
    page.wait_for_selector("#live.on")
    page.wait_for_selector("text=lamp-3")
    assert lines(page)[:2] == ["40", "39"]
    write(runs / "lamp", episode(40, text="the newest"))
    page.wait_for_selector("tr.item.fresh a[href*='/episode/41']", timeout=3000)
    assert lines(page)[:2] == ["41", "40"]
    page.locator(".tabs").get_by_role("link", name="Curves").click()
    page.wait_for_selector("text=20 lines of metrics")
    before = page.locator("svg.chart").first.inner_html()
    write_metrics(runs / "lamp", *range(21, 31))
    page.wait_for_selector("text=30 lines of metrics", timeout=5000)
    assert page.locator("svg.chart").first.inner_html() != before
    page.goto(address.partition("?")[0])
    page.wait_for_selector("h1:text('Runs')")
    (runs / "later").mkdir()
    write(runs / "later", episode(1))
    page.wait_for_selector("a:text-is('later')", timeout=10_000)
    untroubled(user)


def test_filters_choose_rows_and_stand_in_the_address(browser: Callable[..., Browser], address: str) -> None:
    user, page = opened(browser, address, "lamp")
    page.wait_for_selector("tr.item")
    page.get_by_label("task begins with").fill("lamp-2")
    page.get_by_label("task begins with").press("Enter")
    until(page, lambda: len(lines(page)) == 4)
    assert set(page.locator("tr.item td:nth-child(2)").all_inner_texts()) == {"lamp-2"}
    page.get_by_label("solved").select_option("not solved")
    until(page, lambda: len(lines(page)) < 4)
    assert set(page.locator("tr.item .verdict").all_inner_texts()) <= {"not solved"}
    kept = page.url
    assert "task=lamp-2" in kept
    assert "success=false" in kept
    left = lines(page)
    page.reload()
    page.wait_for_selector("tr.item")
    assert lines(page) == left
    page.get_by_label("task begins with").fill("")
    page.get_by_label("solved").select_option("any")
    page.get_by_label("text in the record").fill("I look at lamp 17.")
    page.get_by_label("text in the record").press("Enter")
    until(page, lambda: len(lines(page)) == 1)
    assert lines(page) == ["18"]
    page.get_by_label("text in the record").fill("nobody wrote this")
    page.get_by_label("text in the record").press("Enter")
    page.wait_for_selector("text=No such episode.")
    page.get_by_label("text in the record").fill("")
    page.get_by_label("text in the record").press("Enter")
    page.get_by_label("step min").fill("5")
    page.get_by_label("step min").press("Enter")
    until(page, lambda: len(lines(page)) == 8)
    untroubled(user)


def test_a_transcript_and_its_tokens(browser: Callable[..., Browser], address: str) -> None:
    user, page = opened(browser, address, "lamp")
    page.get_by_role("link", name="12", exact=True).click()
    page.wait_for_selector("h1:text('lamp-11')")
    assert page.locator(".turn .who").all_inner_texts() == ["USER", "ASSISTANT", "TOOL · LOOK", "ASSISTANT"]
    assert "It is red." in page.locator(".turn.assistant").last.inner_text()
    assert page.locator("pre.call").inner_text() == 'look {"at": 11}'
    page.get_by_role("button", name="Tokens").click()
    page.wait_for_selector(".token")
    assert page.locator(".token:not(.context)").count() == 48
    page.get_by_role("button", name="advantage").click()
    page.locator(".token:not(.context)").first.hover()
    assert "advantage" in page.locator("#tip").inner_text()
    page.get_by_role("link", name="This task elsewhere").click()
    page.wait_for_selector("text=episodes in 1 store")
    assert page.locator(".pair .side").count() >= 1
    untroubled(user)


def test_a_recorded_turn_is_played_on_by_a_person_and_by_a_policy(
    browser: Callable[..., Browser], address: str, runs: Path
) -> None:
    store = runs / "shop" / "trajectories.jsonl"
    before = store.read_bytes()
    user, page = opened(browser, address, "shop")
    page.locator("tr.item a").first.click()
    page.get_by_role("button", name="fork from this turn").nth(1).click()
    page.wait_for_selector("text=waiting for you")
    page.get_by_label("Tool").select_option(index=0)
    page.get_by_label("Arguments as JSON").fill("not JSON")
    page.get_by_role("button", name="Call").click()
    page.wait_for_selector("text=The arguments are not JSON")
    page.get_by_label("Tool").select_option(index=1)
    talk = page.locator(".turn").count()
    page.get_by_role("button", name="Call").click()
    until(page, lambda: page.locator(".turn").count() == talk + 2)
    assert_fits(page, "fork")
    page.get_by_label("Message").fill("I give up.")
    page.get_by_role("button", name="Send").click()
    page.wait_for_selector(".verdict:text('not solved')")
    page.get_by_role("button", name="Fork again").click()
    page.wait_for_selector("text=waiting for you")
    page.get_by_label("Policy").select_option("oracle")
    page.get_by_role("button", name="Play on").click()
    page.wait_for_selector(".verdict:text-is('solved')")
    page.get_by_role("button", name="Save in the store of forks").click()
    page.wait_for_selector("text=saved in")
    (saved,) = TrajectoryStore(runs / "forks" / "trajectories.jsonl")
    assert saved.reward == 1.0
    assert saved.fork is not None
    assert store.read_bytes() == before
    untroubled(user)


def test_everything_can_be_done_from_the_keyboard(browser: Callable[..., Browser], address: str) -> None:
    user = browser()
    page = user.open(address)
    page.wait_for_selector("tr.item.selected")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert "lamp" in page.locator("tr.selected").inner_text()
    page.keyboard.press("Enter")
    page.wait_for_selector("svg.chart")
    page.keyboard.press("Escape")
    page.wait_for_selector("h1:text('Runs')")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:text('shop')")
    page.wait_for_selector("tr.item.selected")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.locator("tr.selected td").first.inner_text() == "4"
    page.keyboard.press("Enter")
    page.wait_for_selector("text=line 4 of shop")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("text=line 3 of shop")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("text=line 4 of shop")
    page.keyboard.press("Escape")
    page.wait_for_selector("tr.item")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.type("jj")
    assert page.evaluate("document.activeElement.value") == "jj", "keys are letters while one types"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.type") != "search"
    untroubled(user)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_wide_and_narrow_windows(scheme: str, browser: Callable[..., Browser], address: str) -> None:
    """`AGENTRL_SCREENSHOTS=FOLDER` keeps the pictures."""
    user = browser(color_scheme=scheme)
    base = address.partition("?")[0]
    page = user.open(address)
    page.wait_for_selector("tr.item")
    assert_fits(page, f"view-runs-{scheme}")
    run = page.get_by_role("link", name="lamp", exact=True).get_attribute("href")
    for name, place, ready in (
        ("curves", f"{run}?tab=curves", "svg.chart"),
        ("episodes", f"{run}?tab=episodes", "tr.item"),
        ("episode", f"{run}/episode/12", ".turn"),
        ("task", "#/task?env=test%2FLamp-v0&task=lamp-3", ".pair .turn"),
        ("nothing", f"{run}/episode/999", ".problem"),
    ):
        page.goto(f"{base}{place}")
        page.wait_for_selector(ready)
        if name == "episode":
            page.get_by_role("button", name="Tokens").click()
            page.wait_for_selector(".token")
        assert_fits(page, f"view-{name}-{scheme}")
    assert user.left_the_machine == []
