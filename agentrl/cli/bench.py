"""`agentrl bench`: one agent on an environment's held-out tasks, compared with doing nothing and with the oracle.

Owns the options. `agentrl.bench` owns what is played, the scores and the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from agentrl.bench.measures.base import Measure
from agentrl.bench.measures.by_name import measures_of
from agentrl.bench.result import BenchConfig, BenchResult
from agentrl.bench.runner import default_out, run_bench
from agentrl.bench.views.table import render
from agentrl.cli.boundary import EXIT_INTERRUPTED, EXIT_UNTRUSTED, json_option, note, print_json, print_tables
from agentrl.cli.policy_options import policy_of, policy_options
from agentrl.cli.progress import Counter
from agentrl.config import arguments_of
from agentrl.env import registry
from agentrl.policy.by_name import PolicySetup
from agentrl.trajectory import EnvRef, Trajectory

_PIPE_WIDTH = 120
_KWARG_HELP = "An argument of the environment, as in env.kwargs of a training file, such as data=diabetes; repeatable."
_MEASURE_HELP = "A further measure, such as pass_at:3, turns, or your own as ./file.py:Class; repeatable."


@click.command("bench")
@click.argument("env")
@policy_options
@click.option("--kwarg", "kwargs", multiple=True, metavar="KEY=VALUE", help=_KWARG_HELP)
@click.option("--trials", type=click.IntRange(1), default=1, show_default=True, help="Episodes per task.")
@click.option("--tasks", type=click.IntRange(1), help="How many tasks of the split; all by default.")
@click.option("--split", default="eval", show_default=True, help="Which tasks.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--concurrency", type=click.IntRange(1), default=64, show_default=True, help="Episodes at a time.")
@click.option("--references/--no-references", default=True, show_default=True, help="Play null and oracle as well.")
@click.option("--measure", "measures", multiple=True, metavar="NAME", help=_MEASURE_HELP)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the records.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    env: str,
    trials: int,
    tasks: int | None,
    split: str,
    seed: int,
    concurrency: int,
    references: bool,
    out: Path | None,
    as_json: bool,
    kwargs: Sequence[str],
    **options: Any,
) -> None:
    """Measure an agent on ENV: success with an interval, pass@k and pass^k, tools; null and oracle for comparison.

    \b
    agentrl bench agentrl/Shop-v0 --policy local:runs/quickstart/model --trials 4
    agentrl bench agentrl/Shop-v0 --policy openai:my-model --base-url http://localhost:8000/v1

    Exit code 3 if episodes were discarded after the model had acted, so that the success rate cannot be trusted.
    """
    policy = policy_of(options, seed=seed)
    registry.spec(env)
    ref = registry.reference(env, **arguments_of(kwargs, "--kwarg"))
    measures = measures_of(options["measures"])
    config = BenchConfig(split, tasks, trials, seed, policy.setup.sampling, concurrency, references)
    result = _run(ref, policy.name, config, out or default_out(env, policy.name), policy.setup, measures)
    if as_json:
        print_json(result.to_json())
    else:
        print_tables(render(result), _PIPE_WIDTH)
    if result.status == "interrupted":
        note(f"Interrupted. The same command with --out {result.out} plays what is missing.")
        ctx.exit(EXIT_INTERRUPTED)
    if result.warnings:
        if as_json:  # the tables hold them otherwise
            note(f"Warning: {'; '.join(result.warnings)}.")
        ctx.exit(EXIT_UNTRUSTED)


def _run(
    env: EnvRef, policy: str, config: BenchConfig, out: Path, setup: PolicySetup, measures: Sequence[Measure]
) -> BenchResult:
    note(f"Playing {policy} on {env.id}, records in {out}")
    with Counter("episodes") as counter:

        def count(done: int, total: int, _: Trajectory) -> None:
            counter.show(done, total)

        return run_bench(env, policy, config=config, out=out, setup=setup, on_progress=count, measures=measures)
