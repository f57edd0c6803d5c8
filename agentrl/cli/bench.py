"""`agentrl bench`: one agent on an environment's held-out tasks, compared with doing nothing and with the oracle.

Owns the options. `agentrl.bench` owns what is played, the scores and the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from agentrl.bench.folder import default_out
from agentrl.bench.measures.base import Measure
from agentrl.bench.measures.by_name import measures_of
from agentrl.bench.measures.cost import price_of
from agentrl.bench.result import BenchConfig, BenchResult
from agentrl.bench.runner import run_bench
from agentrl.bench.suites.suite import Spending, Suite, SuiteResult, load_suite, run_suite
from agentrl.bench.views.judge import judge_table
from agentrl.bench.views.suite import render_suite
from agentrl.bench.views.table import render
from agentrl.cli.boundary import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_UNTRUSTED,
    json_option,
    note,
    print_json,
    print_tables,
)
from agentrl.cli.env_options import kwarg_option
from agentrl.cli.judge_options import judge_of, judge_options
from agentrl.cli.policy_options import GivenPolicy, policy_of, policy_options
from agentrl.cli.progress import Counter
from agentrl.config import arguments_of
from agentrl.env import registry
from agentrl.rollout.judging.judge import Judge
from agentrl.trajectory import EnvRef, Trajectory

_PIPE_WIDTH = 120
_IN_THE_FILE = "stands in the suite's file, or in --set"
_OF_ONE = {
    "trials": f"--trials {_IN_THE_FILE} trials=4",
    "tasks": f"--tasks {_IN_THE_FILE} envs.NAME.num_tasks=50",
    "split": f"--split {_IN_THE_FILE} envs.NAME.split=test",
    "seed": f"--seed {_IN_THE_FILE} seed=1",
    "concurrency": f"--concurrency {_IN_THE_FILE} max_concurrency=16",
    "references": f"--references {_IN_THE_FILE} references=false",
    "kwargs": f"--kwarg {_IN_THE_FILE} envs.NAME.kwargs.KEY=VALUE",
    "measures": f"--measure {_IN_THE_FILE} measures=['turns']",
    "judge": "--judge goes with one environment; `agentrl judge` judges what was played",
    "rubric": "--rubric goes with one environment",
}
_OF_SUITES = {"overrides": "--set goes with a suite's file"}
_PRICES_HELP = "TOML table: [MODEL] with input, output, cached_input, cache_write in USD for a million tokens."
_MEASURE_HELP = "A further measure, such as pass_at:3, turns, or your own as ./file.py:Class; repeatable."


@click.command("bench")
@click.argument("env", metavar="ENV|SUITE.toml")
@policy_options
@kwarg_option
@click.option("--trials", type=click.IntRange(1), default=1, show_default=True, help="Episodes per task.")
@click.option("--tasks", type=click.IntRange(1), help="How many tasks of the split; all by default.")
@click.option("--split", default="eval", show_default=True, help="Which tasks.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the episodes and of sampling."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting of a suite's file.")
@click.option("--concurrency", type=click.IntRange(1), default=64, show_default=True, help="Episodes at a time.")
@click.option("--references/--no-references", default=True, show_default=True, help="Play null and oracle as well.")
@click.option("--measure", "measures", multiple=True, metavar="NAME", help=_MEASURE_HELP)
@click.option("--prices", type=click.Path(path_type=Path, dir_okay=False, exists=True), help=_PRICES_HELP)
@click.option("--budget-usd", type=click.FloatRange(0, min_open=True), help="Stop when it is spent; needs --prices.")
@judge_options
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
    overrides: tuple[str, ...],
    out: Path | None,
    as_json: bool,
    kwargs: Sequence[str],
    **options: Any,
) -> None:
    """Measure an agent on ENV: success with an interval, pass@k and pass^k, tools; null and oracle for comparison.

    A SUITE.toml names several environments, with their tasks and trials.

    \b
    agentrl bench agentrl/Shop-v0 --policy local:runs/quickstart/model --trials 4
    agentrl bench agentrl/Shop-v0 --policy openai:my-model --base-url http://localhost:8000/v1
    agentrl bench suite.toml --policy openai:my-model --base-url http://localhost:8000/v1 --set trials=4

    Exit code 3 if episodes were discarded after the model had acted, so that the success rate cannot be trusted.
    """
    policy = policy_of(options, seed=seed)
    spending = _spending(options, policy.name)
    if env.endswith(".toml"):
        _refuse(ctx, _OF_ONE)
        suite, out = load_suite(env, overrides), out or default_out(Path(env).stem, policy.name)
        played = _play_suite(suite, policy, out, spending)
        _show_suite(ctx, played, as_json, _left(spending, played.cost_usd, out))
        return
    _refuse(ctx, _OF_SUITES)
    for flaw in registry.spec(env).env_class.known_flaws:
        note(f"Known flaw: {flaw}")
    ref = registry.reference(env, **arguments_of(kwargs, "--kwarg"))
    measures = measures_of(options["measures"])
    price, budget = spending.price, spending.budget_usd
    config = BenchConfig(split, tasks, trials, seed, policy.setup.sampling, concurrency, references, price, budget)
    out = out or default_out(env, policy.name)
    judge = judge_of(options, out)
    result = _run(ref, policy, config, out, measures, judge)
    if as_json:
        print_json(result.to_json())
    else:
        print_tables(render(result), _PIPE_WIDTH)
        if result.judged is not None:
            print_tables(judge_table(result.judged), _PIPE_WIDTH)
    if result.status == "interrupted":
        note(_left(spending, result.cost_usd, out))
        ctx.exit(EXIT_INTERRUPTED)
    if result.warnings:
        if as_json:  # the tables hold them otherwise
            note(f"Warning: {'; '.join(result.warnings)}.")
        ctx.exit(EXIT_UNTRUSTED)


def _refuse(ctx: click.Context, names: Mapping[str, str]) -> None:
    """Raises: UsageError for an option that does not go with what is benchmarked."""
    for name, why in names.items():
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(why)


def _spending(options: Mapping[str, Any], policy: str) -> Spending:
    """Price and budget. Raises: UsageError for a budget without prices; ConfigError for a table without this model."""
    budget = options["budget_usd"]
    if options["prices"] is not None:
        return Spending(price_of(options["prices"], policy), budget)
    if budget is not None:
        raise click.UsageError("--budget-usd needs --prices FILE, a TOML table with the price of the model's tokens")
    return Spending()


def _play_suite(suite: Suite, policy: GivenPolicy, out: Path, spending: Spending) -> SuiteResult:
    note(f"Playing {policy.name} on {len(suite.envs)} environments, records in {out}")
    with Counter("episodes") as counter:

        def count(_: str, done: int, total: int, __: Trajectory) -> None:
            counter.show(done, total)

        return run_suite(suite, policy.name, out, setup=policy.setup, on_progress=count, spending=spending)


def _left(spending: Spending, cost_usd: float | None, out: Path) -> str:
    """Why episodes are missing, and how to play them."""
    budget, cost_usd = spending.budget_usd, cost_usd or 0.0
    again = f"The same command with --out {out}"
    if budget is not None and cost_usd >= budget:
        spent = f"The budget of {budget:g} USD is spent ({cost_usd:.4g} USD)"
        return f"{spent}. {again} and a larger --budget-usd plays what is missing."
    return f"Interrupted. {again} plays what is missing."


def _show_suite(ctx: click.Context, result: SuiteResult, as_json: bool, left: str) -> None:
    """Args: left: what to say if episodes are missing."""
    if as_json:
        print_json(result.to_json())
    else:
        print_tables(render_suite(result), _PIPE_WIDTH)
    if result.status == "interrupted":
        note(left)
        ctx.exit(EXIT_INTERRUPTED)
    if result.errors:
        ctx.exit(EXIT_FAILED)
    if result.warnings:
        ctx.exit(EXIT_UNTRUSTED)


def _run(
    env: EnvRef,
    policy: GivenPolicy,
    config: BenchConfig,
    out: Path,
    measures: Sequence[Measure],
    judge: Judge | None,
) -> BenchResult:
    note(f"Playing {policy.name} on {env.id}, records in {out}")
    with Counter("episodes") as counter:

        def count(done: int, total: int, _: Trajectory) -> None:
            counter.show(done, total)

        more: dict[str, Any] = {"setup": policy.setup, "on_progress": count, "measures": measures, "judge": judge}
        return run_bench(env, policy.name, config=config, out=out, **more)
