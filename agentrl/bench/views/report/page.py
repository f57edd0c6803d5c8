"""The page of one or more benchmarks: `agentrl report`, and `agentrl compare --report`. Owns the file and its layout.

It opens anywhere, without network: a policy in the page forbids every request. Texts of models and servers are data,
never HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from agentrl.bench.compare import Comparison
from agentrl.bench.measures.success import Reward
from agentrl.bench.views.comparison import tests_in_words
from agentrl.bench.views.page_text import for_page
from agentrl.bench.views.report import numbers
from agentrl.bench.views.report.forest import ForestRow, forest_plot
from agentrl.bench.views.report.judged import judge_rows
from agentrl.bench.views.report.runs import AUDIT, MOST_BYTES, ReportRun, packed_runs, read_runs
from agentrl.bench.views.report.suites import benchmark_folders, suite_table
from agentrl.bench.views.table import number, percent
from agentrl.errors import ConfigError, StoreError


def write_bench_report(
    places: Sequence[str | Path],
    out: str | Path,
    comparisons: Sequence[Comparison] = (),
    *,
    most_bytes: int = MOST_BYTES,
) -> Path:
    """Write the page of benchmarks side by side.

    Args:
        places: folders of benchmarks or of suites. `audit.json` in one of them, from `agentrl audit --json`, is shown.
        out: the file.
        comparisons: of the runs, in the form of forest plots.
        most_bytes: of the packed transcripts; long texts are cut until all episodes fit.
    Returns: the file's path.
    Raises: ConfigError for a folder without a benchmark, or a file of another kind; StoreError if it cannot be written.
    """
    if not places:
        raise ConfigError("a report needs at least one folder of a benchmark")
    _check_kind(Path(out), ".html", ".htm")
    folders, suites = benchmark_folders([Path(place) for place in places])
    runs = read_runs(folders)
    packed = packed_runs(runs, most_bytes)
    pages = Environment(
        loader=PackageLoader("agentrl.bench.views", "."),
        autoescape=True,
        finalize=for_page,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    (cost, unit), flaky = numbers.cost_plot(runs), numbers.flaky_rows(runs)
    page = pages.get_template("report/report.html.jinja").render(
        runs=runs,
        audits=[audit_verdict(run, audit_of(run, runs)) for run in runs],
        warnings=[f"{run.name}: {text}" for run in runs for text in run.summary.get("warnings") or ()],
        metrics=numbers.metric_rows(runs),
        judged=judge_rows(runs),
        suites=suite_table(suites, {folder: run.score.success for folder, run in zip(folders, runs, strict=True)}),
        success=numbers.success_plot(runs),
        comparisons=[
            (one, numbers.difference_plot(one), numbers.win_rows(one), tests_in_words(one)) for one in comparisons
        ],
        curves=numbers.pass_curves(runs),
        passes=[numbers.pass_table(run.score) for run in runs],
        cost=cost,
        cost_unit=unit,
        failures=numbers.failure_rows(runs),
        tools=numbers.tool_rows(runs),
        flaky=flaky[: numbers.MOST_FLAKY],
        num_flaky=len(flaky),
        made_with=[(run.name, made_with(run.summary)) for run in runs],
        packed=packed,
        tones=numbers.TONES,
    )
    return write_page(Path(out), page)


def write_picture(out: str | Path, comparisons: Sequence[Comparison]) -> Path:
    """Write the values and the differences of comparisons as one SVG file. Raises: ConfigError, StoreError."""
    _check_kind(Path(out), ".svg")
    rows, is_share = [], comparisons[0].measure != Reward.name
    shown = percent if is_share else number
    for found in comparisons:
        for record, value in zip((found.second, found.first), reversed(found.values), strict=True):
            rows.append(ForestRow(record.policy, value, shown(value)))
        difference = f"{'+' if found.difference.mean > 0 else ''}{shown(found.difference)}"
        label = f"difference on {found.difference.n} tasks{', in points' if is_share else ''}"
        rows.append(ForestRow(label, found.difference, difference, "main"))
    title = f"{comparisons[0].measure.replace('_', ' ')} with 95% intervals; the difference is paired by task"
    return write_page(Path(out), forest_plot(rows, title=title, percent=is_share, standalone=True) + "\n")


def _check_kind(out: Path, *kinds: str) -> None:
    """Refuse a file of another kind: it would be written over. Raises: ConfigError."""
    if out.suffix.lower() not in kinds:
        raise ConfigError(f"{out} would be written over: name a file that ends in {kinds[0]}")


def write_page(path: Path, text: str) -> Path:
    """Write a file in one step. Raises: StoreError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path}: {error.strerror}: choose another file, or free space") from error
    return path


def audit_of(run: ReportRun, runs: Sequence[ReportRun]) -> Mapping[str, Any] | None:
    """The audit next to a run, or next to another one of the same environment."""
    others = (one.audit for one in runs if one.recorded.env == run.recorded.env)
    return run.audit or next((audit for audit in others if audit is not None), None)


def audit_verdict(run: ReportRun, audit: Mapping[str, Any] | None) -> tuple[str, str]:
    """`good`, `bad` or `unknown`, and what the audit of a run's environment says."""
    env = run.recorded.env
    if audit is None:
        return "unknown", (
            f"No audit was run, so nothing shows that a score on {env.id} means something: "
            f"agentrl audit {env.id} --json > RUN/{AUDIT}, where RUN is the folder of the run"
        )
    of, checks = audit["env"], f"{len(audit['checks'])} checks on {audit.get('num_tasks', '?')} tasks"
    if of.get("id") != env.id or (of.get("version") or env.version) != env.version:
        return "unknown", f"The audit is of {of.get('id')} {of.get('version', '')}, not of {env.id} {env.version}"
    flaws = [flaw for flaw in audit["flaws"] if flaw.get("severity") != "advice"]
    said = "; ".join(f"{flaw['severity']} [{flaw['kind']}] {flaw['problem']}" for flaw in flaws) or "nothing found"
    return ("good" if audit["ok"] else "bad"), f"Audit ({checks}): {said}"


def made_with(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a run's summary says about how it came about, a row each."""
    provenance = summary.get("provenance") or {}
    env = summary.get("env") or {}
    rows = [
        ("policy", summary.get("policy")),
        ("environment", f"{env.get('id')} {env.get('version', '')}"),
        ("arguments and limits", _listed({**env.get("kwargs", {}), **env.get("limits", {})})),
        ("scored by", _listed(summary.get("scored_by") or {})),
        ("sampling", _listed(summary.get("sampling") or {})),
        ("served model", _listed(summary.get("served_models") or {})),
        ("versions", _listed(summary.get("versions") or {})),
        ("begun, ended", f"{summary.get('started_at')}, {summary.get('ended_at')}"),
        ("machine", _listed(provenance.get("machine") or {})),
        ("command", provenance.get("command")),
        ("git revision", provenance.get("git")),
    ]
    return [(name, str(value)) for name, value in rows if value]


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value not in (None, "", [], {}))
