"""`agentrl compare`: two benchmarks of one environment, task by task.

Owns the options. `agentrl.bench.compare` owns what may be compared, and the numbers.
"""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from agentrl.bench.compare import RECORDED, comparison
from agentrl.bench.records import read_record
from agentrl.bench.views.comparison import render_comparison
from agentrl.cli.boundary import EXIT_UNTRUSTED, json_option, print_json

_PIPE_WIDTH = 120


@click.command("compare")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--measure", type=click.Choice(RECORDED), default="success", show_default=True, help="What is compared.")
@click.option("--allow-versions", is_flag=True, help="Accept another version of the environment with the same tasks.")
@json_option
@click.pass_context
def command(ctx: click.Context, first: Path, second: Path, measure: str, allow_versions: bool, as_json: bool) -> None:
    """Compare two benchmarks: FIRST minus SECOND, on the tasks that both played, with a 95% interval.

    FIRST and SECOND are folders of `agentrl bench`, or their summary.json. They must be of the same environment,
    arguments, limits, version and tasks; else they are refused. Exit code 3 if episodes were discarded after the model
    had acted, so that the difference cannot be trusted.
    """
    found = comparison(read_record(first), read_record(second), measure, allow_versions=allow_versions)
    if as_json:
        print_json(found.to_json())
    else:
        console = Console(highlight=False)
        console.width = console.width if console.is_terminal else _PIPE_WIDTH
        console.print(render_comparison(found))
    if found.warnings:
        ctx.exit(EXIT_UNTRUSTED)
