"""`agentrl report`: the page of benchmarks side by side, or of a training run. Owns the options."""

from __future__ import annotations

from pathlib import Path

import click

from agentrl.bench.views.report.page import write_bench_report
from agentrl.bench.views.report.runs import folder_of
from agentrl.bench.views.run_report import write_report
from agentrl.cli.boundary import json_option, print_json, say


@click.command("report")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The file; by default report.html in the first RUN.")
@json_option
def command(runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Write a page with the numbers, failures and transcripts of benchmarks, side by side.

    \b
    agentrl report runs/bench-mine
    agentrl report runs/bench-first runs/bench-second --out both.html
    agentrl audit agentrl/Shop-v0 --json > runs/bench-mine/audit.json

    RUN is a folder of `agentrl bench`, of one environment or of a suite, or its summary.json. One folder of `agentrl
    train` is also taken: its report.html is written anew. The page is one file and needs no network. An audit.json next
    to the episodes is shown in it.
    """
    if (runs[0] / "metrics.jsonl").is_file():
        if len(runs) > 1 or out is not None:
            raise click.UsageError("the report of a training run is its own report.html: give that one folder alone")
        path = write_report(runs[0])
    else:
        path = write_bench_report(runs, out or folder_of(runs[0]) / "report.html")
    if as_json:
        print_json({"report": str(path), "bytes": path.stat().st_size})
    else:
        say(f"Report: {path}")
