"""`agentrl credit`: how near estimators of advantages come to the true advantages of single turns."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentrl.bench.credit_meter.curves import Curve, curves_text, read_curves
from agentrl.bench.credit_meter.meter import ESTIMATORS, CreditReport, ameasure_credit
from agentrl.bench.credit_meter.samples import MeterSettings
from agentrl.cli.boundary import json_option, note, print_json, say
from agentrl.cli.policy_options import GivenPolicy, policy_of, policy_options
from agentrl.cli.progress import Counter
from agentrl.cli.train_grid import numbers, run_all
from agentrl.env import registry
from agentrl.errors import ConfigError
from agentrl.policy.by_name import resolve

if TYPE_CHECKING:
    from agentrl.training.sweeps.grid import GridRun

_DEFAULTS = MeterSettings()
_SAME = ("oracle", "null", "scripted")


@click.command("credit")
@click.argument("env")
@policy_options
@click.option(
    "--tasks",
    type=click.IntRange(2),
    default=16,
    show_default=True,
    help="How many tasks; one episode of each is played.",
)
@click.option("--split", default="train", show_default=True, help="Which tasks.")
@click.option("--estimators", metavar="NAMES", help="Comma-separated; all that need no value head by default.")
@click.option("--group-size", type=int, default=_DEFAULTS.group_size, show_default=True, help="Episodes of a group.")
@click.option(
    "--continuations",
    type=int,
    default=_DEFAULTS.continuations,
    show_default=True,
    help="Continuations to play from each state.",
)
@click.option(
    "--draws", type=int, default=_DEFAULTS.draws, show_default=True, help="Groups to put together for each turn."
)
@click.option(
    "--forks",
    type=int,
    default=_DEFAULTS.forks,
    show_default=True,
    help="Continuations of each state that forked credit gets.",
)
@click.option(
    "--most-turns",
    type=int,
    default=_DEFAULTS.most_turns,
    show_default=True,
    help="Most turns of an episode to measure.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the episodes and of sampling."
)
@click.option("--concurrency", type=click.IntRange(1), default=64, show_default=True, help="Episodes at a time.")
@click.option(
    "--curves",
    type=click.IntRange(1),
    metavar="TOKENS",
    help="Then train a local policy with each estimator until it has sampled TOKENS, and print the learning curves.",
)
@click.option("--seeds", default="0,1,2", show_default=True, metavar="N,N", help="Seeds of the runs of --curves.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the runs of --curves; runs/credit by default.")
@click.option("--jobs", type=click.IntRange(1), help="Most runs of --curves at once.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    env: str,
    tasks: int,
    split: str,
    estimators: str | None,
    seed: int,
    concurrency: int,
    curves: int | None,
    seeds: str,
    out: Path | None,
    jobs: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Fork every state of some episodes of ENV, and compare estimators with the true advantages of its turns.

    \b
    agentrl credit agentrl/Shop-v0 --policy local:runs/quickstart/model
    agentrl credit ./my_env.py:MyEnv --policy openai:my-model --base-url http://localhost:8000/v1 --tasks 8
    agentrl credit agentrl/Shop-v0 --policy local:runs/warm/model --estimators grpo,rloo,forked --curves 24000
    """
    policy = _sampling(policy_of(options, seed=seed))
    registry.spec(env)
    settings = _settings(options)
    names = tuple(name.strip() for name in estimators.split(",")) if estimators else ESTIMATORS
    out = out or Path("runs/credit")
    runs = []
    if curves is not None:
        runs = _planned(env, _trained(policy.name, options), names, curves, numbers(seeds), out)
    note(f"Playing {policy.name} on {env}")
    report = asyncio.run(
        _measured(
            env,
            policy,
            num_tasks=tasks,
            split=split,
            estimators=names,
            settings=settings,
            seed=seed,
            max_concurrency=concurrency,
        )
    )
    found = {"env": env, "policy": policy.name, "split": split, "seed": seed, **report.to_json()}
    if not as_json:
        say(report.to_text())
    failed = False
    if curves is not None:
        learnt, failed = _curves(runs, curves, out, jobs)
        found["curves"] = {"tokens": curves, "estimators": [curve.to_json() for curve in learnt]}
        if not as_json and learnt:
            say("\n" + curves_text(learnt, curves))
    if as_json:
        print_json(found)
    if failed:
        ctx.exit(1)


def _sampling(policy: GivenPolicy) -> GivenPolicy:
    """Raises: ConfigError for a policy that always does the same."""
    if policy.name in _SAME:
        raise ConfigError(
            f"--policy {policy.name} always does the same, which leaves no action to compare: give one that samples"
        )
    return policy


def _settings(options: Mapping[str, Any]) -> MeterSettings:
    """Raises: ConfigError for numbers that measure nothing."""
    try:
        return MeterSettings(
            options["group_size"], options["continuations"], options["draws"], options["forks"], options["most_turns"]
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _trained(policy: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The sections `model` and `sampling` of what --curves trains: those of the policy that is measured.

    Raises: ConfigError for a policy without weights, and for --top-k, which no training run has.
    """
    kind, _, folder = policy.partition(":")
    if kind != "local":
        raise ConfigError(f"--curves trains the policy, so it needs local:DIR, not {policy!r}")
    if options["top_k"]:
        raise ConfigError("--top-k does not go with --curves: training samples from all tokens, or by --top-p")
    model = _given(options, "chat_format", "chat_template", "max_context", "device")
    return {"model": {**model, "path": folder}, "sampling": _given(options, "temperature", "top_p", "max_tokens")}


def _given(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if options[name] is not None}


def _planned(
    env: str, trained: Mapping[str, Any], names: Sequence[str], tokens: int, seeds: Sequence[int], out: Path
) -> list[GridRun]:
    """The runs of the curves, every configuration and folder checked. Raises: ConfigError if a folder holds others."""
    from agentrl.training.sweeps.arms import plan_arms  # loads torch
    from agentrl.training.sweeps.curves import curve_arms
    from agentrl.training.sweeps.grid import is_done

    runs = plan_arms(curve_arms(env, trained, names, tokens), out, seeds)
    for run in runs:
        is_done(run)
    return runs


def _curves(runs: Sequence[GridRun], tokens: int, out: Path, jobs: int | None) -> tuple[list[Curve], bool]:
    """Train what is not trained yet. Returns: the curves of the finished runs, and whether a run failed."""
    from agentrl.training.sweeps.grid import run_grid  # loads torch

    results = run_all(run_grid, runs, out, jobs)
    finished: dict[str, dict[int, Path]] = {run.cell: {} for run in runs}
    for result in results:
        if result.summary:
            finished[result.run.cell][result.run.config.seed] = result.run.folder
    curves = read_curves({name: of for name, of in finished.items() if of}, tokens)
    return curves, any(result.summary is None for result in results)


async def _measured(env: str, given: GivenPolicy, **options: Any) -> CreditReport:
    async with resolve(given.name, given.setup) as policy:
        with Counter("episodes") as counter:
            return await ameasure_credit(
                env, policy, sampling=given.setup.sampling, on_progress=counter.show, **options
            )
