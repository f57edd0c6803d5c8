"""What a run's numbers say in words: each verdict on hand-made numbers, in both directions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentrl.bench.verdicts import Signs, causes, change, choices, said_of, signs_of, verdicts


def outcomes(successes: int, of: int = 40) -> dict[str, list[float]]:
    """The first tasks succeed."""
    return {f"t{n}": [float(n < successes)] for n in range(of)}


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [(10, 30, "better"), (30, 10, "worse"), (20, 21, "undecided"), (20, 20, "undecided"), (21, 20, "undecided")],
)
def test_better_worse_and_undecided(before: int, after: int, name: str) -> None:
    found = change(outcomes(before), outcomes(after), "sampled")
    assert found is not None
    assert found.name == name
    assert found.text.lower().startswith(name)
    assert ("may be chance" in found.text) == (name == "undecided")
    assert f"success changed by {(after - before) / 40:+.3f} [" in found.text
    assert "on the same 40 held-out tasks" in found.text
    assert found.to_json()["difference"]["mean"] == pytest.approx((after - before) / 40)


def test_tasks_are_paired_by_id_and_others_left_out() -> None:
    """The five tasks of both got worse; unpaired, after would look better."""
    before = {**{f"t{n}": [1.0] for n in range(12)}, **{f"old{n}": [0.0] for n in range(50)}}
    after = {**{f"t{n}": [0.0] for n in range(12)}, **{f"new{n}": [1.0] for n in range(50)}}
    found = change(before, after, "greedy")
    assert found is not None
    assert (found.name, found.numbers["difference"]["n"]) == ("worse", 12)
    assert change({"a": [1.0]}, {"b": [1.0]}, "greedy") is None


# Figures of the trials that the rules were made for, by environment.
HARD = Signs(failed=0.97, solved=0.0, trained=0.01, held_out=0.0, held_out_high=0.02, improved=False)
BY_HEART = Signs(failed=0.0, solved=0.94, trained=0.98, held_out=0.63, held_out_high=0.70, is_flat=True, improved=False)
SKILL = Signs(failed=0.38, solved=0.0, trained=0.16, held_out=0.15, held_out_high=0.21, is_flat=True, improved=False)
DONE = Signs(failed=0.0, solved=0.95, trained=0.99, held_out=0.985, held_out_high=0.99, is_flat=True, improved=True)


@pytest.mark.parametrize(
    ("signs", "name", "words"),
    [
        (HARD, "too_hard", "in 97% of the groups no episode succeeds"),
        (BY_HEART, "learnt_by_heart", "98% of training episodes succeed at the end, but only 63% on held-out tasks"),
        (SKILL, "missing_skill", "the loss on demonstrations is flat"),
        (replace(SKILL, is_flat=False), "form_not_content", "more demonstrations"),
        (DONE, "solved", "in 95% of the last groups every episode succeeds"),
    ],
)
def test_each_cause_is_named_and_says_what_to_do(signs: Signs, name: str, words: str) -> None:
    (found,) = causes(signs)
    assert found.name == name
    assert words in found.text


@pytest.mark.parametrize(
    "signs",
    [
        Signs(),  # nothing is known
        replace(SKILL, improved=True),  # it learnt
        replace(SKILL, failed=0.2),  # most groups have a success to learn from
        replace(SKILL, trained=0.6),
        replace(BY_HEART, held_out_high=0.93),  # within the interval
        replace(BY_HEART, trained=0.85, solved=0.5),
        replace(DONE, solved=0.8),
        Signs(failed=0.1, solved=0.4, trained=0.7, held_out=0.68, held_out_high=0.74, is_flat=True, improved=False),
    ],
)
def test_other_numbers_name_no_cause(signs: Signs) -> None:
    assert causes(signs) == []


def lines(steps: int, **metrics: float) -> list[dict[str, Any]]:
    return [{"stage": "rl", "step": n, **{k.replace("__", "/"): v for k, v in metrics.items()}} for n in range(steps)]


def test_the_numbers_are_read_from_metrics_and_summary() -> None:
    supervised = [{"stage": "warm_start", "step": n, "loss/supervised": 0.5} for n in range(200)]
    early = lines(10, rollout__success=0.2, rollout__groups_failed=0.6, rollout__groups_solved=0.0)
    late = lines(10, rollout__success=0.4, rollout__groups_failed=0.2, rollout__groups_solved=0.1)
    other = [{"stage": "first", "step": 1, "rollout/success": 1.0, "rollout/groups_failed": 1.0}]
    summary = {"after": {"sampled": {"mean": 0.3, "ci95": [0.2, 0.42]}}, "verdicts": [{"name": "worse"}]}
    found = signs_of([*supervised, *other, *early, *late], summary)
    assert (found.failed, found.solved, found.trained) == pytest.approx((0.4, 0.1, 0.4))
    assert (found.held_out, found.held_out_high, found.is_flat, found.improved) == (0.3, 0.42, True, False)


@pytest.mark.parametrize(("last", "is_flat"), [(0.95, True), (0.85, False)])
def test_a_loss_is_flat_when_its_last_quarter_is_hardly_below_the_one_before(last: float, is_flat: bool) -> None:
    losses = [2.0] * 100 + [1.0] * 50 + [last] * 50
    rows = [{"stage": "w", "step": n, "loss/supervised": loss} for n, loss in enumerate(losses)]
    assert signs_of(rows, {}).is_flat is is_flat
    assert signs_of(rows[:199], {}).is_flat is False  # too few updates to say so
    assert signs_of([], {}).is_flat is None


def test_a_whole_run_gets_its_changes_and_its_causes() -> None:
    rows = lines(12, rollout__success=0.99, rollout__groups_failed=0.0, rollout__groups_solved=0.97)
    summary = {"after": {"sampled": {"mean": 0.98, "ci95": [0.95, 0.99]}}}
    first, last = {"greedy": outcomes(8), "sampled": outcomes(16)}, {"greedy": outcomes(40), "sampled": outcomes(39)}
    found = verdicts(rows, summary, [{"outcomes": first}, {"outcomes": last}])
    assert [one["name"] for one in found] == ["better", "better", "solved"]
    assert said_of(rows, {**summary, "verdicts": found}) == found
    assert [one["name"] for one in said_of(rows, {})] == ["solved"]


@pytest.mark.parametrize(("num_lost", "name"), [(0, "better"), (2, "better"), (30, "undecided")])
def test_losing_episodes_that_are_gone_make_no_run_better(num_lost: int, name: str) -> None:
    first, kept = outcomes(16), outcomes(40)
    last = {**kept, **{f"lost{n}": [0.0] for n in range(num_lost)}}
    first |= {f"lost{n}": [1.0] for n in range(num_lost)}
    tables = [
        {"outcomes": {"greedy": first}},
        {"outcomes": {"greedy": kept}, "outcomes_of_attempted": {"greedy": last}},
    ]
    (found,) = verdicts([], {}, tables)
    assert found["name"] == name
    assert ("with discarded episodes as failures it is" in found["text"]) == (name == "undecided")
    assert found["difference_of_attempted"]["mean"] <= found["difference"]["mean"]


def test_choices_of_stages_are_one_sentence_each() -> None:
    stages = {"rl_2": {"selection": {"text": "Stopped at step 5 of 40: solved"}}, "before": {}}
    assert choices({"stages": stages}) == ["rl 2: Stopped at step 5 of 40: solved."]
    assert choices({}) == []
