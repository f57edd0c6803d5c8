"""What `agentrl view` takes for a store of a gigabyte: time, memory, and how soon an appended episode is on the screen.

    python benchmarks/viewer.py [--gb 1.0] [--browser /usr/bin/chromium] [--json FILE]

Makes a run in a temporary folder, starts the command on it, and asks as the page does. `--browser` also measures in a
real browser; it needs `pip install playwright`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from agentrl.messages import Action, Message, ToolCall
from agentrl.rollout.json_lines import encode_line
from agentrl.rollout.records import trajectory_record
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, Turn

_PER_STEP = 512
_TRIALS = 20


def episode(number: int, rng: np.random.Generator) -> Trajectory:
    """An episode of four turns of 24 tokens, as the quickstart writes them."""
    turns, context = [], tuple(rng.integers(0, 512, 60).tolist())
    for turn in range(4):
        ids = tuple(rng.integers(0, 512, 24).tolist())
        logprobs = tuple((-rng.exponential(0.3, 24)).tolist())
        call = ToolCall("stock", {"seller": f"seller-{turn}"})
        action = Action("", (call,), None, context, ids, logprobs, (number // _PER_STEP,) * 24)
        turns.append(Turn((Message("tool", f"{turn} left", name="stock"),), action, 0.0, {}, (), None, 0.01, 0.001))
        context = (*context, *ids, *rng.integers(0, 512, 12).tolist())
    turns[-1].reward = float(rng.random() < 0.5)
    labels = Labels("rl", number // _PER_STEP + 1)
    return Trajectory(
        EnvRef("agentrl/Shop-v0"),
        Task(f"train-{number % 4000}", data={"item": "jar", "quantity": number % 9}),
        number,
        turns,
        Ending("answer"),
        f"group-{number // 8}",
        f"episode-{number}",
        labels,
        {"task_id": f"train-{number % 4000}", "tool_stats": {"stock": {"calls": 4, "errors": 0}}},
    )


def write_run(folder: Path, size: int) -> int:
    """A run with a store of about `size` bytes. Returns: its episodes."""
    rng, number, written = np.random.default_rng(0), 0, 0
    (folder / "config.toml").write_text('[stages.rl]\nkind = "reinforce"\n')
    with (folder / "trajectories.jsonl").open("wb") as store:
        while written < size:
            written += store.write(encode_line(trajectory_record(episode(number, rng))))
            number += 1
    with (folder / "metrics.jsonl").open("w") as log:
        for step in range(1, number // _PER_STEP + 1):
            numbers = {f"area/metric_{n}": float(rng.random()) for n in range(40)}
            row = {"stage": "rl", "step": step, "version": step, "time_s": step, "rollout/success": 0.5, **numbers}
            log.write(json.dumps(row) + "\n")
    return number


@contextmanager
def page_of(folder: Path) -> Iterator[tuple[str, str, int]]:
    """The command on a folder: its address, token and process."""
    command = [sys.executable, "-m", "agentrl", "view", str(folder), "--no-browser", "--json"]
    page = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert page.stdout is not None
        found = json.loads(page.stdout.readline())
        address, _, token = found["url"].partition("?token=")
        yield address, token, page.pid
    finally:
        page.terminate()
        page.wait(30)


def median_ms(work: Callable[[int], Any]) -> float:
    """The median of several calls, after one that does not count."""
    work(0)
    took = []
    for number in range(_TRIALS):
        began = time.perf_counter()
        work(number)
        took.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(took), 2)


def cpu_s(pid: int) -> float:
    """The processor time that a process has had, its start included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return round((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 2)


def memory_mb(pid: int) -> float:
    """The most memory that a process has had."""
    text = Path(f"/proc/{pid}/status").read_text()
    return round(int(text.partition("VmHWM:")[2].split()[0]) / 1024, 1)


def index_mb() -> float:
    """The size of the newest index."""
    folder = max(Path(tempfile.gettempdir()).glob("agentrl-view-*"), key=lambda path: path.stat().st_mtime)
    return round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6, 1)


def measure(folder: Path, episodes: int, browser: str | None) -> dict[str, Any]:
    """Every number of the report."""
    started = time.perf_counter()
    with page_of(folder) as (address, token, pid):
        client = httpx.Client(base_url=address, headers={"authorization": f"Bearer {token}"}, timeout=60)
        ready = time.perf_counter()
        found: dict[str, Any] = {"start_s": round(ready - started, 2)}
        run = client.get("/api/runs").json()["runs"][0]["id"]
        base = f"/api/runs/{run}/episodes"
        while not client.get(base).json()["rows"]:
            time.sleep(0.005)
        found["first_rows_s"] = round(time.perf_counter() - ready, 3)
        slowest = 0.0
        while True:
            began = time.perf_counter()
            progress = client.get(f"/api/runs/{run}").json()["progress"]
            slowest = max(slowest, time.perf_counter() - began)
            if progress["whole"] and progress["episodes"] == episodes:
                break
            time.sleep(0.02)
        found["index_cpu_s"] = cpu_s(pid)
        found["index_s"] = round(time.perf_counter() - ready, 2)
        found["slowest_answer_meanwhile_ms"] = round(1000 * slowest, 1)
        middle = episodes // 2
        pages = {
            "page_ms": lambda n: client.get(base, params={"before": middle - n}),
            "filtered_page_ms": lambda n: client.get(
                base, params={"success": True, "step_max": 50, "before": middle - n}
            ),
            "rare_page_ms": lambda n: client.get(base, params={"task": "train-17", "status": "fault"}),
            "episode_ms": lambda n: client.get(f"{base}/{middle + n}"),
            "tokens_ms": lambda n: client.get(f"{base}/{middle + n}/tokens"),
            "run_ms": lambda n: client.get(f"/api/runs/{run}"),
            "curves_ms": lambda n: client.get(f"/api/runs/{run}/curves"),
        }
        found |= {name: median_ms(work) for name, work in pages.items()}
        found["search_all_s"] = search(client, base)
        rng = np.random.default_rng(1)
        found["append_to_rows_ms"] = appended(client, folder, run, episodes, rng)
        if browser:
            found |= on_screen(browser, f"{address}?token={token}", folder, run, episodes + _TRIALS, rng)
        found |= {"memory_mb": memory_mb(pid), "index_mb": index_mb()}
    return found


def search(client: httpx.Client, base: str) -> float:
    """Seconds to search the whole store for a text that is nowhere, a page after the other."""
    began, asked = time.perf_counter(), {"text": "nowhere at all"}
    while True:
        page = client.get(base, params=asked).json()
        if page["next"] is None:
            return round(time.perf_counter() - began, 2)
        asked["before"] = page["next"]


def _append(folder: Path, number: int, rng: np.random.Generator) -> None:
    with (folder / "trajectories.jsonl").open("ab") as store:
        store.write(encode_line(trajectory_record(episode(number, rng))))


def appended(client: httpx.Client, folder: Path, run: str, number: int, rng: np.random.Generator) -> float:
    """Milliseconds from an appended line to its row at the client: the event, and the page that is asked then."""
    took = []
    with client.stream("GET", "/api/events") as events:
        lines = (json.loads(line[6:]) for line in events.iter_lines() if line.startswith("data: "))
        next(lines)
        for n in range(_TRIALS):
            time.sleep(0.03 * (n % 5))
            began = time.perf_counter()
            _append(folder, number + n, rng)
            while next(lines)["moved"].get(run, {}).get("episodes") != number + n + 1:
                pass
            (row,) = client.get(f"/api/runs/{run}/episodes", params={"after": number + n}).json()["rows"]
            assert row["line"] == number + n + 1
            took.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(took), 1)


def on_screen(
    browser: str, url: str, folder: Path, run: str, number: int, rng: np.random.Generator
) -> dict[str, float]:
    """The same in a browser: until a row is an element of the page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playing:
        page = playing.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
        page.goto(url)
        page.wait_for_selector("tr.item")
        began = time.perf_counter()
        page.goto(f"{url.partition('?')[0]}#/run/{run}?tab=episodes")
        page.wait_for_selector("table.list td.words")
        opened, took = 1000 * (time.perf_counter() - began), []
        for n in range(_TRIALS):
            began = time.perf_counter()
            _append(folder, number + n, rng)
            page.wait_for_selector(f"tr.item a[href*='/episode/{number + n + 1}']", state="attached")
            took.append(1000 * (time.perf_counter() - began))
    return {"browser_open_ms": round(opened, 1), "append_to_screen_ms": round(statistics.median(took), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--browser", help="path of Chromium; needs playwright")
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="viewer-store-") as folder:
        episodes = write_run(Path(folder), int(given.gb * 1e9))
        size = (Path(folder) / "trajectories.jsonl").stat().st_size
        found = {"bytes": size, "episodes": episodes, "cores": os.cpu_count(), "load": os.getloadavg()[0]}
        found |= measure(Path(folder), episodes, given.browser)
    text = json.dumps(found, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
