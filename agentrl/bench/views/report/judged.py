"""What a judge said of the runs of a report, and how far to believe it. Reads the JSON of `Judged`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentrl.bench.estimates import Estimate
from agentrl.bench.views.report.forest import known_estimate
from agentrl.bench.views.report.runs import ReportRun
from agentrl.bench.views.table import number, percent

NOT_MEASURED = "not measured"


def judge_rows(runs: Sequence[ReportRun]) -> list[tuple[str, list[str]]]:
    """One row for each number of a judge, one cell for each run; none where no run was judged."""
    found = [run.summary.get("judge") for run in runs]
    judges = [judge if isinstance(judge, Mapping) else {} for judge in found]
    if not any(judges):
        return []
    rows = [
        ("judge", [str(judge.get("judge", "-")) for judge in judges]),
        ("mean score", [_estimate(judge.get("score"), number) for judge in judges]),
        ("passed", [_estimate(judge.get("passed"), percent) for judge in judges]),
        ("passed, no verdict = failed", [_estimate(judge.get("passed_of_all"), percent) for judge in judges]),
        ("episodes judged", [f"{judge['n_judged']:,}" if "n_judged" in judge else "-" for judge in judges]),
        ("without a verdict", [_failed(judge) for judge in judges]),
        ("agrees with labels", [_agreement(judge, "labels") for judge in judges]),
        ("agrees with the environment", [_agreement(judge, "environment") for judge in judges]),
    ]
    return [row for row in rows if any(cell != "-" for cell in row[1])]


def _estimate(record: Any, shown: Callable[[Estimate], str]) -> str:
    found = known_estimate(record)
    return "-" if found is None else shown(found)


def _failed(judge: Mapping[str, Any]) -> str:
    if not judge:
        return "-"
    return ", ".join(f"{count} {cause}" for cause, count in (judge.get("failed") or {}).items()) or "0"


def _agreement(judge: Mapping[str, Any], name: str) -> str:
    if not judge:
        return "-"
    record = judge.get(name)
    if not isinstance(record, Mapping):
        return NOT_MEASURED
    kappa = record.get("kappa")
    shown = "-" if kappa is None else f"{kappa:.2f}"
    return f"{_estimate(record.get('accuracy'), percent)}, kappa {shown}, n = {record.get('n')}"
