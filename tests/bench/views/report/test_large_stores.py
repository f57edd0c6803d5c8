"""Reports of stores that are larger than the memory they may take."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentrl.bench.runner import run_bench
from agentrl.bench.views.report.packed import unpacked
from agentrl.bench.views.report.page import write_bench_report
from agentrl.bench.views.report.runs import packed_runs, read_runs
from agentrl.bench.views.run_report import write_report
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.policy.function import FunctionPolicy
from agentrl.tool_schema import tool
from agentrl.trajectory import Task

EPISODES, CHARS = 160, 100_000
MB = 1_000_000


class Archive(ToolEnv):
    """Every page is long."""

    tasks = Tasks.of(eval=[{"n": n} for n in range(EPISODES)])

    def start(self, task: Task) -> str:
        return f"Read page {task.data['n']}."

    @tool
    def read(self) -> str:
        """Read the page."""
        return f"page {self.task.data['n']} " * (CHARS // 9)

    def score(self, answer: str | None) -> float:
        return float(self.task.data["n"] % 2)


async def reads(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Any:
    return "read" if messages[-1]["role"] == "tool" else call("read")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large") / "bench"
    run_bench(Archive, FunctionPolicy(reads, "reader"), out=folder, references=False)
    assert (folder / "trajectories.jsonl").stat().st_size > 14 * MB
    return folder


@pytest.fixture(scope="module")
def run(bench: Path) -> Path:
    """The same episodes as two evaluations of a training run."""
    folder = bench.parent / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(json.dumps({"stage": "rl", "step": 0, "version": 1, "time_s": 1.0}) + "\n")
    lines = (bench / "trajectories.jsonl").read_text().replace('"mode":"sampled"', '"mode":"greedy"')
    (folder / "trajectories.jsonl").write_text(
        lines.replace('"stage":"bench"', '"stage":"before"') + lines.replace('"stage":"bench"', '"stage":"after"')
    )
    return folder


@contextmanager
def peak_below(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def twice(bench: Path) -> list[Path]:
    other = bench.parent / "other"
    if not other.exists():
        shutil.copytree(bench, other)
    return [bench, other]


@pytest.mark.parametrize("places", [lambda bench: [bench], twice], ids=["one", "two"])
def test_the_page_of_benchmarks_never_holds_its_episodes(bench: Path, places: Callable[[Path], list[Path]]) -> None:
    write_bench_report([bench], bench / "report.html")  # loads what is loaded once
    with peak_below(6 * MB):
        path = write_bench_report(places(bench), bench / "report.html")
    assert path.stat().st_size > 40_000


def test_the_report_of_a_training_run_never_holds_its_episodes(run: Path) -> None:
    write_report(run)
    with peak_below(6 * MB):
        path = write_report(run)
    assert path.read_text().count("page 1 page 1") >= 2  # before and after


def test_a_page_that_would_be_too_large_holds_some_of_the_episodes_and_says_so(bench: Path) -> None:
    runs = read_runs([bench])
    whole = packed_runs(runs)
    assert whole.every == 1
    assert len(unpacked(whole.text)["episodes"]) == EPISODES
    some = packed_runs(runs, 4_000)
    assert some.every > 1
    assert len(some.text) <= 4_000
    assert 0 < len(unpacked(some.text)["episodes"]) <= EPISODES // some.every + 1
    page = write_bench_report([bench], bench / "small.html", most_bytes=4_000).read_text()
    assert f"One in {some.every} episodes is shown" in page
