"""Chromium, driven by Playwright, and the pages that it opens. Not part of the default run: `make browser-tests`."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from agentrl.bench.runner import run_bench
from agentrl.messages import Action, Message, ToolCall
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, Turn

CHROMIUM = os.environ.get("AGENTRL_CHROMIUM", "/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HOSTILE = (
    "</script><script>window.owned = 1</script><img src=x onerror='window.owned = 2'>"
    "<style>body { display: none }</style><svg onload='window.owned = 3'><a href='javascript:window.owned=4'>a</a>"
    "\x1b[2J\x1b]0;owned\x07\u202egnp.exe\u2066\u0000"
)
WIDTHS = (1400, 400)


@pytest.fixture(scope="session")
def playwright() -> Iterator[Any]:
    """Playwright's driver; the browser is Debian's."""
    api = pytest.importorskip("playwright.sync_api", reason="make browser-tests installs playwright")
    if not Path(CHROMIUM).is_file():
        pytest.fail(f"there is no {CHROMIUM}: apt-get install chromium, or name another with AGENTRL_CHROMIUM")
    with api.sync_playwright() as started:
        yield started


class Browser:
    """A browser with a profile of its own, and what it was seen to do.

    `asked` holds the address of every request, `complaints` what the console and the pages' scripts said went wrong.
    """

    def __init__(self, context: Any) -> None:
        self.context = context
        self.asked: list[str] = []
        self.complaints: list[str] = []
        context.on("request", lambda request: self.asked.append(request.url))
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)

    def open(self, address: str, width: int = 1400) -> Any:
        """A new tab at an address."""
        page = self.context.new_page()
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(address)
        return page

    @property
    def left_the_machine(self) -> list[str]:
        """Requests to anything but this machine and the page itself."""
        return [url for url in self.asked if urlsplit(url).hostname not in (None, "127.0.0.1", "localhost")]


@pytest.fixture
def browser(playwright: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Browser]]:
    """Starts browsers; each has a new folder of its user's data."""
    with ExitStack() as stack:

        def start(*flags: str, **options: Any) -> Browser:
            profile = tmp_path_factory.mktemp("profile")
            stack.callback(shutil.rmtree, profile, ignore_errors=True)
            context = playwright.chromium.launch_persistent_context(
                profile, executable_path=CHROMIUM, args=[*FLAGS, *flags], headless=True, **options
            )
            stack.callback(context.close)
            context.set_default_timeout(15_000)
            return Browser(context)

        yield start


@contextmanager
def viewing(folder: Path, *more: str) -> Iterator[str]:
    """`agentrl view` on a folder. Gives: the address with its token."""
    command = [sys.executable, "-m", "agentrl", "view", str(folder), "--no-browser", "--json", *more]
    page = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert page.stdout is not None
        yield json.loads(page.stdout.readline())["url"]
    finally:
        page.terminate()
        page.communicate(timeout=30)


def episode(number: int, *, text: str = "", name: str = "lamp", **fields: Any) -> Trajectory:
    """An episode of a call and an answer, with sampled tokens, as training writes it."""
    rng = random.Random(number)
    context, turns = tuple(rng.choices(range(512), k=40)), []
    for words, call in (
        (f"I look at {name} {number}.", ToolCall("look", {"at": number})),
        (text or "It is red.", None),
    ):
        ids = tuple(rng.choices(range(512), k=24))
        logprobs = tuple(-rng.expovariate(3.0) for _ in ids)
        action = Action(words, (call,) if call else (), None, context, ids, logprobs, (number // 8,) * len(ids))
        turns.append(
            Turn((Message("tool", "red", name="look") if turns else Message("user", f"{name} {number}?"),), action)
        )
        context = (*context, *ids, *rng.choices(range(512), k=12))
    turns[-1].reward = float(rng.random() < 0.3 + number / 200)
    return Trajectory(
        EnvRef("test/Lamp-v0"),
        Task(f"{name}-{number % 12}", "train", {"at": number % 12}),
        number,
        turns,
        **{
            "ending": Ending("answer"),
            "group_id": f"group-{number // 4}",
            "episode_id": f"{name}-{number}",
            "labels": Labels("rl", number // 8 + 1),
            **fields,
        },
    )


def write(folder: Path, *episodes: Trajectory) -> Path:
    """Append episodes to the store of a folder. Returns: the folder."""
    with TrajectoryStore(folder / "trajectories.jsonl") as store:
        for one in episodes:
            store.append(one)
    return folder


def write_metrics(folder: Path, *steps: int) -> None:
    """Append steps to the curves of a training run."""
    (folder / "config.toml").write_text('[stages.rl]\nkind = "reinforce"\n\n[stages.rl.credit]\nkind = "grpo"\n')
    with (folder / "metrics.jsonl").open("a") as log:
        for step in steps:
            row = {"stage": "rl", "step": step, "version": step, "time_s": 2.0 * step}
            numbers = {"rollout/success": 1 - 0.95**step, "loss/policy": 0.1 / step, "policy/entropy": 1.5 - step / 40}
            log.write(json.dumps({**row, **numbers}) + "\n")


def bench(*arguments: Any, **more: Any) -> None:
    """`run_bench` in a thread: Playwright keeps an event loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run_bench, *arguments, **more).result()


def until(page: Any, holds: Callable[[], bool]) -> None:
    """Wait until something holds. The pages forbid `eval`, with which `wait_for_function` would ask."""
    for _ in range(300):
        if holds():
            return
        page.wait_for_timeout(50)
    pytest.fail("it did not come to hold in 15 s")


def assert_fits(page: Any, name: str) -> None:
    """A page is nowhere wider than its window, at either width. Pictures are kept in the folder AGENTRL_SCREENSHOTS."""
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(50)
        if folder := os.environ.get("AGENTRL_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"{name}-{width}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than {width} pixels"
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})
