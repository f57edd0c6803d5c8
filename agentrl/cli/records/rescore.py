"""`agentrl rescore`: recorded episodes with another score, without a model. Owns the options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agentrl.bench.rescoring.rescore import Rescored, rescore
from agentrl.bench.suites.recorded import is_suite
from agentrl.bench.suites.rescoring import SuiteRescored, rescore_suite
from agentrl.bench.views.suite import render_suite
from agentrl.bench.views.table import render
from agentrl.cli.boundary import EXIT_FAILED, EXIT_UNTRUSTED, json_option, note, print_json, print_tables
from agentrl.cli.progress import Counter

_PIPE_WIDTH = 120
_RUBRIC_HELP = (
    "What scores: module:function or ./file.py:function of the episode, or of the episode and its environment; a "
    "Rubric with new weights; or `recorded`. By default the environment, as it is now."
)


@click.command("rescore")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--rubric", metavar="REF", help=_RUBRIC_HELP)
@click.option("--env", help="Take the recorded actions in this environment instead of the recorded one.")
@click.option("--own-tasks", is_flag=True, help="Take the content of tasks from the environment, where it has them.")
@click.option("--out", type=click.Path(path_type=Path), help="The new folder; by default RUN-rescored.")
@click.option("--measure", "measures", multiple=True, metavar="NAME", help="A further measure; repeatable.")
@click.option("--stage", help="Evaluation of a training run to score; the last one by default.")
@click.option(
    "--mode",
    type=click.Choice(["greedy", "sampled"]),
    help="Score only the greedy, or only the sampled, episodes of a training run.",
)
@click.option(
    "--trust-record", is_flag=True, help="Import code and use sandboxes that the record names: for your own records."
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    run: Path,
    rubric: str | None,
    env: str | None,
    own_tasks: bool,
    out: Path | None,
    measures: tuple[str, ...],
    stage: str | None,
    mode: str | None,
    trust_record: bool,
    as_json: bool,
) -> None:
    """Score the episodes of RUN again into a new folder, without a model. RUN is only read.

    \b
    agentrl rescore runs/bench-mine --rubric ./strict.py:strict
    agentrl rescore runs/bench-mine --env ./shop.py:Shop --out runs/bench-mine-fixed
    agentrl compare runs/bench-mine runs/bench-mine-rescored

    RUN is a folder of `agentrl bench`, of one environment or of a suite, or of `agentrl train`, whose last evaluation
    is scored. Exit code 3 if episodes could not be scored, because the recorded actions are answered differently here.
    """
    if is_suite(run):
        for name, given in (("--env", env), ("--stage", stage), ("--mode", mode)):
            if given is not None:
                raise click.UsageError(f"{name} goes with one benchmark: give the folder of one environment in {run}")
        found = _rescore_suite(
            run, out, rubric=rubric, own_tasks=own_tasks, trust_record=trust_record, measures=measures
        )
        _show_suite(ctx, found, as_json=as_json)
        return
    with Counter("scored") as counter:
        one = rescore(
            run,
            out,
            rubric=rubric,
            env=env,
            own_tasks=own_tasks,
            trust_record=trust_record,
            stage=stage,
            mode=mode,
            measures=measures,
            on_progress=counter.show,
        )
    if as_json:
        print_json(one.to_json())
    else:
        print_tables(render(one.result), _PIPE_WIDTH)
        _note(one)
    if one.lost or one.result.warnings:
        ctx.exit(EXIT_UNTRUSTED)


def _rescore_suite(run: Path, out: Path | None, **options: Any) -> SuiteRescored:
    with Counter("scored") as counter:
        return rescore_suite(run, out, on_progress=counter.show, **options)


def _show_suite(ctx: click.Context, found: SuiteRescored, *, as_json: bool) -> None:
    if as_json:
        print_json(found.to_json())
    else:
        print_tables(render_suite(found.result), _PIPE_WIDTH)
        for name, one in found.envs.items():
            _note(one, f"{name}: ")
    if found.result.errors:
        ctx.exit(EXIT_FAILED)
    if found.result.warnings or any(one.lost for one in found.envs.values()):
        ctx.exit(EXIT_UNTRUSTED)


def _note(found: Rescored, of: str = "") -> None:
    """What changed, for the person watching."""
    number, tasks = len(found.changed), found.result.score.n_tasks
    shown = ", ".join(found.changed[:5]) + (", ..." if number > 5 else "")
    note(f"{of}The score changed on {number} of {tasks} tasks" + (f": {shown}" if number else ""))
    if found.lost:
        note(
            f"{of}{found.lost} episodes that were scored before are discarded: their actions are answered differently "
            "here"
        )
    if found.other_tasks:
        note(f"{of}{len(found.other_tasks)} tasks have other content in the environment; --own-tasks takes that one")
