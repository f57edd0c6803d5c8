"""What a person reads: numbers, intervals, and warnings before a score is quoted."""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from agentrl.bench.estimates import Estimate
from agentrl.bench.result import score_of
from agentrl.bench.runner import run_bench
from agentrl.bench.views.table import notes, number, percent, render
from agentrl.messages import Action, Message
from agentrl.trajectory import Ending, Labels
from tests.bench.toys import Adder, Some, breaks


def text_of(result: object, width: int = 100) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(render(result))  # type: ignore[arg-type]
    return capture.get()


def test_everything_is_on_the_page() -> None:
    shown = text_of(run_bench(Adder, Some(right=4), trials=2))
    for part in (
        "Adder · eval · 8 tasks x 2",
        "50.0% [17.9, 82.1]",
        "0.500 [0.179, 0.821]",
        "pass@k",
        "pass^k",
        "oracle",
        "100.0% [58.9, 100.0]",
        "add",
        "2.0 turns, 10 tokens sampled, 14 tokens read",
        "per success: 20 [",
    ):
        assert part in shown, part


def test_further_measures_stand_in_a_table_of_their_own() -> None:
    shown = text_of(run_bench(Adder, Some(right=4), trials=2, measures=["pass_hat:2", "turns"]))
    (rates,) = [line.split() for line in shown.splitlines() if "pass_hat:2" in line]
    assert rates[:5] == ["pass_hat:2", "share", "50.0%", "[17.9,", "82.1]"]
    (turns,) = [line.split() for line in shown.splitlines() if line.split()[:1] == ["turns"]]
    assert turns[:3] == ["turns", "turns", "2.000"]


def test_a_terminal_of_80_columns_is_enough() -> None:
    result = run_bench(Adder, Some(right=4), trials=2)
    shown = text_of(result, width=80)
    assert all(part in shown for part in ("50.0% [17.9, 82.1]", "100.0% [58.9, 100.0]", "0.500 [0.179, 0.821]"))


def test_void_episodes_are_named() -> None:
    (note,) = notes(run_bench(Adder, Some(broken=[5])))
    assert note.startswith("1 episodes are discarded and not scored; most often: PolicyFault: the server is gone")
    assert list(notes(run_bench(Adder, Some()))) == []


def test_attempted_stands_beside_scored_and_discarded_by_cause() -> None:
    shown = text_of(run_bench(breaks(), "oracle", references=False), width=80)
    rows = [line.split() for line in shown.splitlines() if line.split()[:1] == ["oracle"]]
    assert "success of 6 scored  success of 8 attempted" in shown
    assert rows[0][1:7] == ["100.0%", "[47.6,", "100.0]", "75.0%", "[35.1,", "94.3]"]
    assert rows[1][1:] == ["8", "6", "0", "0", "2", "(2", "server)"]
    words = " ".join(shown.split())
    assert "warning: 2 of 8 episodes were discarded after the model had acted" in words
    assert "do not trust this success rate, nor a comparison with it" in words


def test_how_many_tasks_a_pass_rate_counts_is_shown() -> None:
    result = run_bench(Adder, Some(right=4), trials=2, references=False)
    for trajectory in (result.trajectories[7], result.trajectories[1]):  # a trial that failed, and one that succeeded
        trajectory.ending = Ending("fault", "PolicyFault: gone", "server")
    score = score_of(result.trajectories, trials=2, n_planned=16)
    shown = text_of(replace(result, score=score))
    rows = [line.split() for line in shown.splitlines() if "%" in line and line.split()[0] in ("1", "2")]
    assert [row[-2:] for row in rows] == [["6,", "8"]] * 2
    assert "pass@k and pass^k leave out 2 tasks that have fewer than 2 scored trials" in " ".join(shown.split())


def test_failures_of_the_models_doing_are_named_by_detail() -> None:
    result = run_bench(Adder, Some(), references=False)
    for trajectory, who in zip(result.trajectories[:3], ("", "", "author"), strict=True):
        trajectory.ending = Ending("error", "EnvFault: step raised KeyError: 3" if who else "refused", who)  # type: ignore[arg-type]
    score = score_of(result.trajectories, trials=1, n_planned=8)
    shown = text_of(replace(result, score=score))
    assert "3 (2 model, 1 author)" in shown
    assert next(notes(replace(result, score=score))) == (
        "3 episodes ended because of what the model sent, and count as failures; 2x: refused"
    )


def test_episodes_that_were_played_again_are_named() -> None:
    result = run_bench(Adder, Some(), references=False)
    result.trajectories[0].labels = Labels("bench", attempt=1)
    score = score_of(result.trajectories, trials=1, n_planned=8)
    assert "1 episodes were played again after a fault" in next(notes(replace(result, score=score)))


class Generous(Adder):
    """Rewards doing nothing, and its oracle is wrong at times."""

    async def score(self, answer: str | None) -> float:
        return float(answer == "") or await super().score(answer)

    def oracle(self, messages: Sequence[Message]) -> Action | str:
        return super().oracle(messages) if self.task.data["a"] else "wrong"


def test_a_broken_environment_is_pointed_out() -> None:
    result = run_bench(Generous, Some())
    assert list(notes(result)) == [
        "doing nothing solves 100.0% of the tasks: every score contains this share",
        "the oracle solves only 87.5%: some tasks or the scoring are broken",
    ]


def test_numbers_that_are_not_known() -> None:
    nothing = Estimate(float("nan"), 0.0, 1.0, 0)
    assert (percent(nothing), number(nothing)) == ("-", "-")
    assert number(Estimate(0.5, -float("inf"), float("inf"), 1)) == "0.500"
    assert percent(Estimate(0.5, -float("inf"), float("inf"), 1)) == "50.0%"
