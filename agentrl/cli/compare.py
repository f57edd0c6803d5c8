"""`agentrl compare`: benchmarks of one environment, or training runs, task by task.

Owns the options. `agentrl.bench.compare` and `agentrl.bench.training_runs` own what may be compared, and the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from agentrl.bench.compare import RECORDED, Comparison, comparisons
from agentrl.bench.estimates import Estimate
from agentrl.bench.measures.success import Success
from agentrl.bench.records import read_record
from agentrl.bench.suites.comparison import SuiteComparison, compare_suites
from agentrl.bench.suites.recorded import is_suite
from agentrl.bench.training_runs import compare_runs, run_folders
from agentrl.bench.views.comparison import render_comparison
from agentrl.bench.views.report.page import write_bench_report, write_picture
from agentrl.bench.views.suite import render_suites
from agentrl.bench.views.training_runs import render_runs
from agentrl.cli.boundary import EXIT_FAILED, EXIT_UNTRUSTED, json_option, note, print_json, print_tables

_PIPE_WIDTH = 120
_PIPE_WIDTH_OF_RUNS = 160
_REPORT_HELP = "Also write the page of the benchmarks (.html), or the plot of the differences alone (.svg)."
_DROP_HELP = "Exit code 1 if one is lower than the first by more than X, in the unit of the measure."


@click.command("compare")
@click.argument("places", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--measure", type=click.Choice(RECORDED), default="success", show_default=True, help="What is compared.")
@click.option("--allow-versions", is_flag=True, help="Accept another version of the environment with the same tasks.")
@click.option("--force", is_flag=True, help="Compare what is refused too; the result names the difference.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help=_REPORT_HELP)
@click.option("--max-drop", type=float, metavar="X", help=_DROP_HELP)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    places: tuple[Path, ...],
    measure: str,
    allow_versions: bool,
    force: bool,
    report: Path | None,
    max_drop: float | None,
    as_json: bool,
) -> None:
    """Compare benchmarks or training runs, task by task, with 95% intervals.

    \b
    agentrl compare runs/bench-first runs/bench-second
    agentrl compare runs/bench-released runs/bench-candidate --max-drop 0.02
    agentrl compare runs/suite-first runs/suite-second
    agentrl compare runs/shop
    agentrl compare runs/rates

    Folders of `agentrl bench`, or their summary.json: the first minus each of the others, on the tasks that both
    played. They must be of the same environment, arguments, limits, version and tasks; else they are refused, unless
    --force is given, and then the result names what differs. Exit code 3 if episodes were discarded after the model had
    acted, so that the difference cannot be trusted; 1 where one of the others is lower than the first by more than
    --max-drop.

    Folders of suites: each environment that both played, and the weighted mean.

    Folders of `agentrl train`, of its grids or of one cell of a grid: success on held-out tasks before and after
    training, and each setting minus the first. Runs that differ in their seeds alone are one setting.
    """
    if any(run_folders(place) for place in places):
        for name, given in (("--max-drop", max_drop), ("--force", force or None), ("--report", report)):
            if given is not None:
                raise click.UsageError(f"{name} goes with benchmarks")
        _compare_runs(places, measure, allow_versions=allow_versions, as_json=as_json)
        return
    if len(places) < 2:
        raise click.UsageError("two benchmarks at least are compared, and one folder was given")
    if all(map(is_suite, places)):
        if len(places) != 2:
            raise click.UsageError(f"two suites are compared, and {len(places)} folders were given")
        suites = compare_suites(*places, measure, allow_versions=allow_versions, force=force)
        if report is not None:
            _write_suites(report, places, suites)
        _show_suites(ctx, suites, str(places[1]), max_drop, as_json=as_json)
        return
    records = [read_record(place) for place in places]
    found = comparisons(records, measure, allow_versions=allow_versions, force=force)
    if report is not None:
        note(f"Report: {_write(report, places, found)}")
    if as_json:
        print_json(found[0].to_json() if len(found) == 1 else {"comparisons": [one.to_json() for one in found]})
    else:
        for one in found:
            print_tables(render_comparison(one), _PIPE_WIDTH)
    if any(one.warnings for one in found):
        ctx.exit(EXIT_UNTRUSTED)
    if max_drop is not None and any(_drops(one, max_drop) for one in found):
        ctx.exit(EXIT_FAILED)


def _write(report: Path, places: Sequence[Path], found: Sequence[Comparison]) -> Path:
    if report.suffix.lower() == ".svg":
        return write_picture(report, found)
    return write_bench_report(places, report, found)


def _write_suites(report: Path, places: Sequence[Path], found: SuiteComparison) -> None:
    if report.suffix.lower() == ".svg":
        raise click.UsageError("a picture is of one environment: give the folders in the suites, or a file .html")
    note(f"Report: {_write(report, places, list(found.envs.values()))}")


def _show_suites(
    ctx: click.Context, found: SuiteComparison, name: str, max_drop: float | None, *, as_json: bool
) -> None:
    if as_json:
        print_json(found.to_json())
    else:
        print_tables(render_suites(found), _PIPE_WIDTH)
    if found.warnings:
        ctx.exit(EXIT_UNTRUSTED)
    if max_drop is not None and _is_lower(name, found.mean, max_drop):
        ctx.exit(EXIT_FAILED)


def _drops(found: Comparison, most: float) -> bool:
    return _is_lower(found.second.policy, found.difference, most)


def _is_lower(name: str, drop: Estimate, most: float) -> bool:
    """Whether one is lower than the first by more than `most`, which is then said."""
    if not drop.mean > most:
        return False
    note(f"{name} is lower by {drop.mean:.3g} [{drop.low:.3g}, {drop.high:.3g}], more than {most:g}")
    return True


def _compare_runs(places: tuple[Path, ...], measure: str, *, allow_versions: bool, as_json: bool) -> None:
    if measure != Success.name:
        raise click.UsageError("--measure goes with benchmarks: training runs are compared by success")
    found = compare_runs(places, allow_versions=allow_versions)
    if as_json:
        print_json(found.to_json())
    else:
        print_tables(render_runs(found), _PIPE_WIDTH_OF_RUNS)
    if found.warnings:
        click.get_current_context().exit(EXIT_UNTRUSTED)
