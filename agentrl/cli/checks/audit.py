"""`agentrl audit`: does a score on an environment mean something? Owns the options."""

from __future__ import annotations

import click

from agentrl.bench.audit import audit
from agentrl.cli.boundary import EXIT_FAILED, json_option, note, print_json
from agentrl.cli.env_options import kwarg_option
from agentrl.cli.progress import Counter
from agentrl.config import arguments_of
from agentrl.env import registry


@click.command("audit")
@click.argument("env")
@kwarg_option
@click.option("--tasks", type=click.IntRange(1), default=30, show_default=True, help="How many tasks of the split.")
@click.option("--all-tasks", is_flag=True, help="Play every task of the split.")
@click.option("--split", default="eval", show_default=True, help="Which tasks.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--concurrency", type=click.IntRange(1), default=16, show_default=True, help="Episodes at a time.")
@click.option("--check", "checks", multiple=True, metavar="NAME", help="Run this check alone (repeatable).")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    env: str,
    kwargs: tuple[str, ...],
    tasks: int,
    all_tasks: bool,
    split: str,
    seed: int,
    concurrency: int,
    checks: tuple[str, ...],
    as_json: bool,
) -> None:
    """Look for reasons why a score on ENV means nothing: what is paid without work, and a verifier that errs.

    \b
    agentrl audit agentrl/Shop-v0
    agentrl audit ./my_env.py:MyEnv --split eval --all-tasks --json

    It needs no model. `agentrl check` asks whether an environment works. Exit code 1 if a flaw is an error.
    """
    registry.spec(env)
    ref = registry.reference(env, **arguments_of(kwargs, "--kwarg"))
    note(f"Auditing {env}")
    with Counter("episodes") as counter:
        report = audit(
            ref,
            split=split,
            num_tasks=None if all_tasks else tasks,
            seed=seed,
            max_concurrency=concurrency,
            checks=checks or None,
            on_progress=lambda _, count: counter.show(count),
        )
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(report.to_text())
    if not report.ok:
        ctx.exit(EXIT_FAILED)
