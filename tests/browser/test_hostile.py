"""Transcripts that mean ill, and strangers that ask: what a browser does with them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agentrl.bench.views.report.page import write_bench_report
from agentrl.messages import Action, Message, ToolCall
from agentrl.trajectory import Task, Trajectory, Turn
from tests.bench.views.report.generated import HOSTILE as IN_A_REPORT
from tests.bench.views.report.generated import Ledger, Writer
from tests.browser.conftest import HOSTILE, Browser, bench, episode, until, viewing, write

pytestmark = pytest.mark.browser
OWNED = "window.owned === undefined"
SHOWN = "document.body.innerText"


def hostile() -> Trajectory:
    """An episode whose every text means ill."""
    call = ToolCall(HOSTILE, {HOSTILE: HOSTILE}, error=HOSTILE)
    turn = Turn((Message("user", HOSTILE),), Action(HOSTILE, (call,), HOSTILE), 1.0, {HOSTILE: 1.0})
    one = episode(0, info={HOSTILE: HOSTILE}, group_id=HOSTILE, episode_id=HOSTILE)
    one.task, one.turns = Task(HOSTILE, "train", {"x": HOSTILE}), [turn]
    one.tools = [{"type": "function", "function": {"name": HOSTILE, "description": HOSTILE}}]
    return one


def assert_inert(page: Any) -> None:
    """Nothing ran, nothing of a transcript is an element, and what it says is to be read as text."""
    assert page.evaluate(OWNED)
    assert page.locator("main img, main script, main style, main iframe, a[href^='javascript']").count() == 0
    assert page.evaluate("getComputedStyle(document.body).display") != "none"
    shown = page.evaluate(SHOWN)
    assert "window.owned" in shown
    assert not set("\x1b\x07\u202e\u2066\x00") & set(shown)


def test_a_hostile_transcript_is_text(browser: Callable[..., Browser], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write(tmp_path / "run", hostile())
    user = browser()
    with viewing(tmp_path) as url:
        base = url.partition("?")[0]
        page = user.open(url)
        run = page.get_by_role("link", name="run", exact=True).get_attribute("href")
        for place in (f"{run}?tab=episodes", f"{run}/episode/1"):
            page.goto(f"{base}{place}")
            page.wait_for_selector("text=window.owned")
            assert_inert(page)
        for summary in page.locator("summary").all():
            summary.click()
        assert_inert(page)
        page.get_by_role("link", name="This task elsewhere").click()
        page.wait_for_selector(".pair .turn")
        assert_inert(page)
    assert user.left_the_machine == []
    assert [told for told in user.complaints if "Content Security Policy" not in told] == []


def test_a_message_of_ten_megabytes_leaves_the_page_usable(browser: Callable[..., Browser], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write(tmp_path / "run", episode(0, text="<b>x</b> " * 1_111_112), episode(1))
    user = browser()
    with viewing(tmp_path) as url:
        page = user.open(url)
        run = page.get_by_role("link", name="run", exact=True).get_attribute("href")
        page.goto(f"{url.partition('?')[0]}{run}/episode/1")
        page.wait_for_selector("text=more characters")
        assert len(page.evaluate(SHOWN)) < 100_000
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("text=line 2 of run")
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector("text=line 1 of run")
        with page.expect_download() as download:
            page.get_by_role("link", name="Raw record").click()
        assert Path(download.value.path()).stat().st_size > 10_000_000
    assert user.complaints == []


def test_a_hostile_transcript_in_a_report_is_text(browser: Callable[..., Browser], tmp_path: Path) -> None:
    bench(Ledger, Writer("writer", 0.2), out=tmp_path / "run", num_tasks=40, references=False)
    user = browser()
    page = user.open(write_bench_report([tmp_path / "run"], tmp_path / "report.html").as_uri())
    page.wait_for_selector("#list button")
    page.get_by_label("Search").fill("onerror")
    until(page, lambda: "of 40 episodes" in page.locator("#count").inner_text())
    for row in page.locator("#list button").all():
        row.click()
        assert "onerror" in page.locator("#shown").inner_text()
        assert page.locator("img, iframe, #shown script, #shown b:has-text('x')").count() == 0
        assert not set("\x1b\u202e") & set(page.evaluate(SHOWN))
    assert "example.com" in IN_A_REPORT
    assert (user.left_the_machine, user.complaints) == ([], [])


@contextmanager
def stranger(page: str) -> Iterator[str]:
    """A server of another origin on this machine, with one page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


ATTEMPTS = """<!doctype html><iframe id=frame src="BASE"></iframe><script type="module">
const told = {};
async function tried(name, work) {
  try { told[name] = await work(); } catch (error) { told[name] = "refused"; }
}
async function text(path, options) {
  return (await (await fetch("BASE" + path, { credentials: "include", ...options })).text()) || "nothing";
}
function script() {
  return new Promise((done, fail) => {
    const made = document.createElement("script");
    [made.src, made.onload, made.onerror] = ["BASEapi/runs", () => done("ran"), fail];
    document.body.append(made);
  });
}
const fork = { method: "POST", body: JSON.stringify({ run: "x", line: 1, turn: 0 }) };
await tried("read", () => text("api/runs"));
await tried("read without CORS", () => text("api/runs", { mode: "no-cors" }));
await tried("send", () => text("api/forks", { ...fork, headers: { "content-type": "application/json" } }));
await tried("send as a form", () => text("api/forks", { ...fork, mode: "no-cors" }));
await tried("script", script);
await tried("frame", async () => document.getElementById("frame").contentDocument.body.innerText);
window.told = told;
</script>"""


def test_a_page_of_another_origin_reads_and_does_nothing(browser: Callable[..., Browser], tmp_path: Path) -> None:
    """The browser has the cookie of the page; a stranger's page uses the same browser."""
    (tmp_path / "run").mkdir()
    write(tmp_path / "run", episode(0))
    user = browser()
    with viewing(tmp_path) as url, stranger(ATTEMPTS.replace("BASE", url.partition("?")[0])) as other:
        user.open(url).wait_for_selector("tr.item")
        answers: list[int] = []
        user.context.on("response", lambda answer: answers.append(answer.status) if "/api/" in answer.url else None)
        page = user.open(other)
        until(page, lambda: page.evaluate("window.told !== undefined"))
        told = page.evaluate("window.told")
        assert set(told.values()) <= {"refused", "nothing", ""}, told
        assert {"read", "send", "script", "frame"} <= {name for name, said in told.items() if said == "refused"}
        assert set(answers) <= {401, 403, 415}, answers
        assert not (tmp_path / "forks").exists()


def test_a_wrong_token_and_a_foreign_name_show_nothing(browser: Callable[..., Browser], tmp_path: Path) -> None:
    """The name leads to this machine: what an attacker's name server can do as well (DNS rebinding)."""
    (tmp_path / "a secret run").mkdir()
    write(tmp_path / "a secret run", episode(0))
    user = browser("--host-resolver-rules=MAP evil.example 127.0.0.1")
    with viewing(tmp_path) as url:
        base, _, token = url.partition("?token=")
        for address in (base, f"{base}?token=", f"{base}?token={token[:-1]}x", f"{base}api/runs"):
            page = user.context.new_page()
            answer = page.goto(address)
            assert answer.status == 401, address
            assert "open the one that `agentrl view` printed" in page.evaluate(SHOWN)
            assert "secret" not in page.content()
        foreign = user.context.new_page()
        answer = foreign.goto(url.replace("127.0.0.1", "evil.example"))
        assert answer.status == 421
        assert "secret" not in foreign.content()
        assert [cookie for cookie in user.context.cookies() if "agentrl" in cookie["name"]] == []
        user.open(url).wait_for_selector("text=a secret run")
