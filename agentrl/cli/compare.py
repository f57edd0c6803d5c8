"""`agentrl compare`: two benchmarks of one environment, or training runs, task by task.

Owns the options. `agentrl.bench.compare` and `agentrl.bench.training_runs` own what may be compared, and the numbers.
"""

from __future__ import annotations

from pathlib import Path

import click

from agentrl.bench.compare import RECORDED, comparison
from agentrl.bench.measures.success import Success
from agentrl.bench.records import read_record
from agentrl.bench.training_runs import compare_runs, run_folders
from agentrl.bench.views.comparison import render_comparison
from agentrl.bench.views.training_runs import render_runs
from agentrl.cli.boundary import EXIT_UNTRUSTED, json_option, print_json, print_tables

_PIPE_WIDTH = 120
_PIPE_WIDTH_OF_RUNS = 160


@click.command("compare")
@click.argument("places", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--measure", type=click.Choice(RECORDED), default="success", show_default=True, help="What is compared.")
@click.option("--allow-versions", is_flag=True, help="Accept another version of the environment with the same tasks.")
@json_option
@click.pass_context
def command(ctx: click.Context, places: tuple[Path, ...], measure: str, allow_versions: bool, as_json: bool) -> None:
    """Compare two benchmarks or any number of training runs, task by task, with 95% intervals.

    \b
    agentrl compare runs/bench-first runs/bench-second
    agentrl compare runs/shop
    agentrl compare runs/rates

    Two folders of `agentrl bench`, or their summary.json: the first minus the second, on the tasks that both played.
    They must be of the same environment, arguments, limits, version and tasks; else they are refused. Exit code 3 if
    episodes were discarded after the model had acted, so that the difference cannot be trusted.

    Folders of `agentrl train`, of its grids or of one cell of a grid: success on held-out tasks before and after
    training, and each setting minus the first. Runs that differ in their seeds alone are one setting.
    """
    if any(run_folders(place) for place in places):
        _compare_runs(places, measure, allow_versions=allow_versions, as_json=as_json)
        return
    if len(places) != 2:
        raise click.UsageError(f"two benchmarks are compared, and {len(places)} folders were given")
    found = comparison(read_record(places[0]), read_record(places[1]), measure, allow_versions=allow_versions)
    if as_json:
        print_json(found.to_json())
    else:
        print_tables(render_comparison(found), _PIPE_WIDTH)
    if found.warnings:
        ctx.exit(EXIT_UNTRUSTED)


def _compare_runs(places: tuple[Path, ...], measure: str, *, allow_versions: bool, as_json: bool) -> None:
    if measure != Success.name:
        raise click.UsageError("--measure goes with benchmarks: training runs are compared by success")
    found = compare_runs(places, allow_versions=allow_versions)
    if as_json:
        print_json(found.to_json())
    else:
        print_tables(render_runs(found), _PIPE_WIDTH_OF_RUNS)
