"""What a training run's numbers say in words: better, worse or undecided, and why nothing was learnt.

Each verdict is a pure function of recorded numbers. Owns no file and no drawing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from agentrl.bench.estimates import Estimate, paired_difference

Metrics = Mapping[str, Any]
Outcomes = Mapping[str, Sequence[float]]
"""Task id -> success of its episodes."""

CHANGES = ("better", "worse", "undecided")
MOST = 0.9
"""Share of groups, or success, from which on it is the rule: what is said is true of nearly all."""
_GAP = 0.1  # between training and held-out success, beyond the interval of the latter
_MANY = 0.25  # share of groups without any success that names a missing skill
_LOW = 0.5  # training success below which there is something to explain
_ENOUGH_UPDATES = 200
_LAST = 10  # steps whose mean is the state at the end


@dataclass(frozen=True)
class Verdict:
    """One statement about a run.

    Attributes:
        name: `better`, `worse`, `undecided`, or a cause: `solved`, `too_hard`, `learnt_by_heart`, `missing_skill`,
            `form_not_content`.
        text: for a reader, with what to do.
        numbers: that it follows from.
    """

    name: str
    text: str
    numbers: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"name": self.name, "text": self.text, **self.numbers}


def change(
    before: Outcomes, after: Outcomes, mode: str, attempted: tuple[Outcomes, Outcomes] | None = None
) -> Verdict | None:
    """Whether the success of after is above or below that of before, paired over the same tasks.

    Args:
        mode: `greedy` or `sampled`, for the text.
        attempted: before and after with discarded episodes as failures, where there are any. What is said must hold for
            them too: else a model that has its losing episodes discarded would be called better.

    Returns: `better` or `worse` where the paired 95% interval excludes 0, else `undecided`; None without a shared task.
    """
    difference = paired_difference(after, before)
    if not difference.n or not math.isfinite(difference.mean):
        return None
    name, why = _side(difference), ""
    numbers = {"mode": mode, "difference": difference.to_json()}
    if attempted:
        of_attempted = paired_difference(attempted[1], attempted[0])
        numbers["difference_of_attempted"] = of_attempted.to_json()
        if name != "undecided" and name != _side(of_attempted):
            name = "undecided"
            why = f": with discarded episodes as failures it is {_shown(of_attempted)}"
    if name == "undecided" and not why:
        why = ": this may be chance"
    text = (
        f"{name.capitalize()} ({mode}): success changed by {_shown(difference)} on the same {difference.n} held-out "
        f"tasks (paired 95% interval){why}."
    )
    return Verdict(name, text, numbers)


def _side(difference: Estimate) -> str:
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "undecided"


def _shown(difference: Estimate) -> str:
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


@dataclass(frozen=True)
class Signs:
    """The numbers of a run that say why it learnt or did not; nan where they are not recorded.

    Attributes:
        failed, solved: shares of groups in which no episode succeeds, and in which all do.
        trained: success in training, at the end.
        held_out, held_out_high: sampled success on held-out tasks after training, and the upper end of its interval.
        is_flat: whether the loss on demonstrations was flat at the end; None without demonstrations.
        improved: whether success after is clearly above that of before; None where it was not measured.
    """

    failed: float = math.nan
    solved: float = math.nan
    trained: float = math.nan
    held_out: float = math.nan
    held_out_high: float = math.nan
    is_flat: bool | None = None
    improved: bool | None = None


def causes(signs: Signs) -> list[Verdict]:
    """Why nothing, or nothing more, was learnt; empty where the numbers name no cause."""
    found = []
    numbers = {name: getattr(signs, name) for name in ("failed", "solved", "trained", "held_out")}
    numbers = {name: round(value, 4) for name, value in numbers.items() if math.isfinite(value)}
    # Every comparison with nan, a number that is not known, is false.
    learnt_by_heart = signs.trained >= MOST and signs.held_out_high < signs.trained - _GAP
    if learnt_by_heart:
        found.append(
            Verdict(
                "learnt_by_heart",
                f"Learnt by heart: {signs.trained:.0%} of training episodes succeed at the end, but only "
                f"{signs.held_out:.0%} on held-out tasks. Train on more and more varied tasks; further steps on these "
                "teach nothing new.",
                numbers,
            )
        )
    elif signs.solved >= MOST and not signs.held_out < MOST:
        found.append(
            Verdict(
                "solved",
                f"Solved: in {signs.solved:.0%} of the last groups every episode succeeds, so there is little left to "
                "learn. Take harder tasks to go further.",
                numbers,
            )
        )
    if signs.improved is not True and signs.trained < _LOW and signs.failed >= _MANY:
        found.append(_why_failed(signs, numbers))
    return found


def _why_failed(signs: Signs, numbers: Mapping[str, Any]) -> Verdict:
    """Of a run in which many groups have no success to learn from."""
    share = f"in {signs.failed:.0%} of the groups no episode succeeds"
    if signs.is_flat is False:
        return Verdict(
            "form_not_content",
            f"Copies form, not content: {share}, and the warm start ended before its loss on demonstrations was "
            "flat. Give it more demonstrations, or more updates on them.",
            numbers,
        )
    if signs.is_flat:
        return Verdict(
            "missing_skill",
            f"Missing skill: {share}, although the loss on demonstrations is flat: more of the same demonstrations do "
            "not teach it. Begin with an easier level of the task, or with a model that has the skill.",
            numbers,
        )
    return Verdict(
        "too_hard",
        f"Too hard: {share}, and reward teaches only where episodes of a group differ. Begin with a better model, with "
        "demonstrations or an easier level, or reward parts of the task.",
        numbers,
    )


def signs_of(metrics: Sequence[Metrics], summary: Metrics) -> Signs:
    """The numbers of a run's metrics lines and summary. Of several stages that play, the last one counts."""
    playing = [row for row in metrics if "rollout/success" in row]
    playing = [row for row in playing if row["stage"] == playing[-1]["stage"]]
    after = (summary.get("after") or {}).get("sampled") or {}
    held_out = after.get("success_of_attempted") or after
    changes = [one for one in summary.get("verdicts", []) if one["name"] in CHANGES]
    return Signs(
        failed=_mean(playing, "rollout/groups_failed"),
        solved=_mean(playing[-_LAST:], "rollout/groups_solved"),
        trained=_mean(playing[-_LAST:], _attempted_in(playing)),
        held_out=_number(held_out.get("mean")),
        held_out_high=_number((held_out.get("ci95") or [None, None])[1]),
        is_flat=_ends_flat([row["loss/supervised"] for row in metrics if _known(row.get("loss/supervised"))]),
        improved=any(one["name"] == "better" for one in changes) if changes else None,
    )


def _attempted_in(rows: Sequence[Metrics]) -> str:
    """The name of the success rate that counts discarded episodes as failures; older runs have the other alone."""
    has = any("rollout/success_of_attempted" in row for row in rows)
    return "rollout/success_of_attempted" if has else "rollout/success"


def _mean(rows: Sequence[Metrics], name: str) -> float:
    values = [float(row[name]) for row in rows if _known(row.get(name))]
    return fmean(values) if values else math.nan


def _known(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _number(value: Any) -> float:
    return float(value) if _known(value) else math.nan


def _ends_flat(losses: Sequence[float]) -> bool | None:
    """Whether the last quarter of the losses is hardly below the quarter before; None without losses.

    Few updates are never enough to call a loss flat: their rate falls to 0 so early that any loss is level at the end.
    """
    if not losses:
        return None
    quarter = len(losses) // 4
    return len(losses) >= _ENOUGH_UPDATES and fmean(losses[-quarter:]) > 0.9 * fmean(losses[-2 * quarter : -quarter])


def verdicts(
    metrics: Sequence[Metrics], summary: Metrics, evaluations: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Everything that can be said of a run, as JSON values: the change of each mode, then the causes.

    Args:
        metrics: lines of metrics.jsonl.
        summary: with the table `after`.
        evaluations: tables of evaluating stages; the change is that from the first to the last of them.
    """
    changes = _changes(evaluations[0], evaluations[-1]) if len(evaluations) > 1 else []
    shown = [one.to_json() for one in changes if one is not None]
    return [*shown, *(one.to_json() for one in causes(signs_of(metrics, {**summary, "verdicts": shown})))]


def _changes(first: Mapping[str, Any], last: Mapping[str, Any]) -> list[Verdict | None]:
    """The change of each mode between two tables."""
    before, after = first["outcomes"], last["outcomes"]
    attempted = attempted_outcomes(first), attempted_outcomes(last)
    lost = any("outcomes_of_attempted" in table for table in (first, last))
    return [
        change(before[mode], after[mode], mode, (attempted[0][mode], attempted[1][mode]) if lost else None)
        for mode in before
        if mode in after
    ]


def attempted_outcomes(table: Mapping[str, Any]) -> Mapping[str, Outcomes]:
    """Outcomes by mode of all attempted episodes; a table says them where they differ from those of the scored ones."""
    found: Mapping[str, Outcomes] = table.get("outcomes_of_attempted", table["outcomes"])
    return found


def said_of(metrics: Sequence[Metrics], summary: Metrics) -> list[dict[str, Any]]:
    """The verdicts of a summary; those that the metrics alone allow where a run is not finished."""
    return list(summary["verdicts"]) if "verdicts" in summary else verdicts(metrics, summary)


def choices(summary: Metrics) -> list[str]:
    """One sentence for each stage that kept its best weights: how it ended, and which it kept."""
    stages = summary.get("stages") or {}
    found = [(name, stage["selection"]["text"]) for name, stage in stages.items() if "selection" in stage]
    return [f"{name.replace('_', ' ')}: {text}." for name, text in found]
