"""Which weights are kept and when a stage stops: the rules on hand-made evaluations."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from agentrl.bench.estimates import clustered_proportion
from agentrl.bench.evaluate import summarize
from agentrl.errors import CheckpointError
from agentrl.training.files.kept_weights import KeptWeights
from agentrl.training.selection import Checked, Selection, described, recorded, split_held_out
from agentrl.trajectory import Ending, Task
from tests.bench.measures.episodes import episode


def tasks(count: int) -> list[Task]:
    return [Task(f"eval-{n}", "eval") for n in range(count)]


@pytest.mark.parametrize(
    ("size", "reported", "wanted", "to_report", "to_choose"),
    [
        (400, 200, 64, 400, 64),  # enough for both: the 64 after the reported 200
        (264, 200, 64, 264, 64),
        (200, 200, 64, 150, 50),  # a quarter
        (250, 200, 64, 188, 62),
        (260, 200, 64, 196, 64),
        (64, 200, 64, 48, 16),
        (63, 200, 64, 63, 0),  # a quarter would be 15: nothing is chosen with so few
        (400, 0, 64, 400, 64),  # no table reports any
        (400, 200, 15, 400, 0),
        (0, 200, 64, 0, 0),
    ],
)
def test_tasks_to_choose_with_are_never_reported(
    size: int, reported: int, wanted: int, to_report: int, to_choose: int
) -> None:
    reporting, choosing = split_held_out(tasks(size), reported, wanted)
    assert (len(reporting), len(choosing)) == (to_report, to_choose)
    shown = {task.id for task in reporting[: reported or 0]}
    assert not shown & {task.id for task in choosing}


def checked(step: int, successes: int, of: int = 64, reward: float | None = None) -> Checked:
    """An evaluation in which the first tasks succeed."""
    outcomes = {f"t{n}": [float(n < successes)] for n in range(of)}
    rate = clustered_proportion(list(outcomes.values()))
    return Checked(step, rate.mean, rate.low, rate.high, rate.mean if reward is None else reward, outcomes)


def after(*evaluations: Checked, solved: float = 0.9, worse: int = 2) -> Selection:
    selection = Selection()
    for evaluation in evaluations:
        assert not selection.stopped
        selection = selection.after(evaluation, solved=solved, worse=worse)
    return selection


def test_the_best_is_the_highest_and_the_later_among_equals() -> None:
    selection = after(checked(0, 30), checked(5, 50), checked(10, 50), checked(15, 48))
    assert selection.best is not None
    assert selection.best.step == 10
    assert selection.restores
    assert not after(checked(0, 30), checked(5, 50)).restores
    assert [one["step"] for one in selection.evaluations] == [0, 5, 10, 15]


def test_equal_success_goes_to_the_higher_reward() -> None:
    best = after(checked(0, 0, reward=0.4), checked(5, 0, reward=0.3)).best
    assert best is not None
    assert best.step == 0


def test_solved_is_a_rule_on_the_lower_end_of_the_interval() -> None:
    # Wilson: 62 of 64 is [0.893, 0.991], 63 of 64 is [0.915, 0.997].
    assert after(checked(5, 62)).stopped == ""
    assert after(checked(5, 63)).stopped == "solved"
    assert after(checked(5, 64, of=64), solved=1.0).stopped == ""


def test_worse_needs_a_paired_interval_below_zero_twice_in_a_row() -> None:
    assert after(checked(0, 40), checked(5, 37), checked(10, 37)).stopped == ""  # worse, not clearly
    assert after(checked(0, 40), checked(5, 20)).stopped == ""  # once
    assert after(checked(0, 40), checked(5, 20), checked(10, 40), checked(15, 20)).stopped == ""  # not in a row
    selection = after(checked(0, 40), checked(5, 20), checked(10, 22))
    assert selection.stopped == "worse"
    assert selection.restores
    assert after(checked(0, 40), checked(5, 20), checked(10, 22), worse=0).stopped == ""


def test_an_evaluation_of_discarded_episodes_alone_changes_nothing() -> None:
    selection = after(checked(0, 40))
    empty = Checked(5, math.nan, -math.inf, math.inf, math.nan, {})
    assert selection.after(empty, solved=0.9, worse=2) == selection


def evaluated(step: int, solved: int, failed: int, discarded: int = 0) -> Checked:
    """An evaluation of tasks with one episode each: solved, failed, and discarded ones."""
    ends = [Ending("answer")] * (solved + failed) + [Ending("fault", "EnvFault: down", "server")] * discarded
    rewards = [float(n < solved) for n in range(len(ends))]
    played = [episode(f"t{n}", reward=rewards[n], ending=ending) for n, ending in enumerate(ends)]
    return Checked.of(step, summarize(played))


def test_weights_whose_losing_episodes_are_discarded_are_not_chosen_for_that() -> None:
    honest, voids = evaluated(0, 34, 30), evaluated(5, 30, 2, 32)
    assert (honest.success, voids.success) == (34 / 64, 30 / 64)
    best = after(honest, voids).best
    assert best is not None
    assert best.step == 0
    assert after(evaluated(5, 16, 0, 48)).stopped == "", "all that count are solved, and most do not count"


def test_of_two_that_solve_nothing_the_one_without_its_low_rewards_is_not_the_better() -> None:
    honest = Checked.of(0, summarize([episode(f"t{n}", reward=0.1 * n) for n in range(8)]))
    lost = [Ending("answer") if n > 3 or not n else Ending("fault", "EnvFault: down", "server") for n in range(8)]
    voids = Checked.of(5, summarize([episode(f"t{n}", reward=0.1 * n, ending=e) for n, e in enumerate(lost)]))
    assert voids.reward == pytest.approx((0.4 + 0.5 + 0.6 + 0.7) / 8)
    best = after(honest, voids).best
    assert best is not None
    assert best.step == 0


def test_an_outage_stops_no_stage() -> None:
    evaluations = [evaluated(0, 40, 24), evaluated(5, 32, 0, 32), evaluated(10, 32, 0, 32)]
    assert after(*evaluations).stopped == ""
    assert not math.isfinite(evaluated(5, 0, 0, 64).success)


def test_a_saved_selection_goes_on_as_the_first_one() -> None:
    selection = after(checked(0, 40), checked(5, 20))
    resumed = Selection.of_state(selection.state_dict())
    for one in (selection, resumed):
        assert one.after(checked(10, 22), solved=0.9, worse=2).stopped == "worse"
    assert resumed == selection


def test_the_summary_says_in_words_what_was_chosen_with_which_tasks() -> None:
    selection = after(checked(0, 40), checked(5, 63))
    found = recorded(selection, tasks(64), ended=5, planned=40)
    assert found["text"] == (
        "Stopped at step 5 of 40: solved; the last weights were kept: 0.984 [0.915, 0.997] on 64 held-out tasks that "
        "no table reports"
    )
    assert found["tasks"] == {"split": "eval", "count": 64, "first": "eval-0", "last": "eval-63"}
    assert (found["best_step"], found["restored"], found["stopped"]) == (5, False, "solved")
    worse = after(checked(0, 40), checked(5, 20), checked(10, 22))
    assert described(worse, 64, ended=10, planned=40).startswith(
        "Stopped at step 10 of 40: clearly worse than at step 0; the weights of step 0 were restored"
    )
    assert described(after(checked(5, 40)), 64, ended=40, planned=40).startswith("All steps were done; the last")


def model(value: float) -> torch.nn.Linear:
    layer = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(layer.weight, value)
    return layer


def test_kept_weights_come_back_and_unused_files_go(tmp_path: Path) -> None:
    kept = KeptWeights(tmp_path)
    kept.keep("a/b", 5, model(5.0))
    kept.keep("a/b", 10, model(10.0))
    other = model(0.0)
    kept.restore("a/b", 5, other)
    assert torch.equal(other.weight, model(5.0).weight)
    kept.remove_unused(("a/b", 10))
    assert [path.name for path in kept.path.iterdir()] == ["a%2Fb-00000010.pt"]
    kept.remove()
    assert not kept.path.exists()


def test_weights_that_an_older_checkpoint_refers_to_stay(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "step-00000007"
    checkpoint.mkdir(parents=True)
    (checkpoint / "extra.json").write_text('{"state": {"best": ["rl", 5]}}')
    kept = KeptWeights(tmp_path)
    for step in (5, 10, 15):
        kept.keep("rl", step, model(step))
    kept.remove_unused(("rl", 15))
    assert sorted(path.name for path in kept.path.iterdir()) == ["rl-00000005.pt", "rl-00000015.pt"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    kept = KeptWeights(tmp_path)
    kept.keep("rl", 5, model(5.0))
    (kept.path / "rl-00000005.pt").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"rl-00000005\.pt, the best weights of a stage, cannot be read"):
        kept.restore("rl", 5, model(0.0))


def test_what_a_user_put_into_the_folder_stays(tmp_path: Path) -> None:
    kept = KeptWeights(tmp_path)
    kept.keep("rl", 5, model(5.0))
    (kept.path / "notes.txt").write_text("mine")
    kept.remove()
    assert [path.name for path in kept.path.iterdir()] == ["notes.txt"]
