"""A comparison as a person reads it."""

from __future__ import annotations

from rich.console import Console

from agentrl.bench.compare import comparison
from agentrl.bench.result import BenchResult
from agentrl.bench.runner import run_bench
from agentrl.bench.views.comparison import render_comparison
from tests.bench.toys import Adder, Some, breaks


def text_of(first: BenchResult, second: BenchResult, measure: str = "success") -> str:
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        console.print(render_comparison(comparison(first.record, second.record, measure)))
    return capture.get()


def test_both_sides_and_their_difference() -> None:
    shown = text_of(run_bench(Adder, "oracle", references=False), run_bench(Adder, Some(right=4), references=False))
    rows = {words[0]: words[1:] for line in shown.splitlines() if len(words := line.split()) > 3}
    assert rows["oracle"] == ["100.0%", "[58.9,", "100.0]", "8", "0"]
    assert rows["some"] == ["50.0%", "[17.9,", "82.1]", "8", "0"]
    assert rows["difference"][0] == "50.0%"
    assert "8 tasks that both played" in shown
    assert "discarded episodes as failures" not in shown
    assert "sampling" not in shown  # one of them takes none


def test_the_tests_are_said_in_words() -> None:
    shown = text_of(run_bench(Adder, "oracle", references=False), run_bench(Adder, Some(right=4), references=False))
    assert (
        "p = 0.062 (paired permutation test, mid-p; exact 0.125), 0.125 (McNemar, exact)" in shown
    )  # 2 of the 2**4 swaps of 4 tasks
    assert "two runs of one agent" not in shown  # one trial says nothing of it
    twice = text_of(
        run_bench(Adder, "oracle", references=False, trials=2),
        run_bench(Adder, Some(right=4), references=False, trials=2),
    )
    assert "all trials of each task agree: of the noise between two runs of one agent they say nothing" in twice
    assert "tasks that would tell a difference (power 0.8, as many trials) of 1 points:" in twice
    assert "McNemar" not in twice


def test_discarded_episodes_are_shown_and_warned_of() -> None:
    result = run_bench(breaks(), "oracle", references=False)
    words = " ".join(text_of(result, result).split())
    assert "difference in success with discarded episodes as failures: 0.0%" in words
    assert words.count("warning: 2 of 8 episodes of the") == 2


def test_rewards_are_no_percentages() -> None:
    result = run_bench(Adder, Some(right=4), references=False)
    assert "0.500 [0.179, 0.821]" in text_of(result, result, "reward")
