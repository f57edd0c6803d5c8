"""`agentrl audit`: does a score on an environment mean something? Owns the options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from agentrl.bench.audit import AuditReport, SuiteAudit, audit, audit_suite
from agentrl.bench.suites.suite import load_suite
from agentrl.cli.boundary import EXIT_FAILED, json_option, note, print_json
from agentrl.cli.env_options import kwarg_option
from agentrl.cli.progress import Counter
from agentrl.config import arguments_of
from agentrl.env import registry


@click.command("audit")
@click.argument("env", metavar="ENV|SUITE.toml")
@kwarg_option
@click.option("--tasks", type=click.IntRange(1), default=30, show_default=True, help="How many tasks of a split.")
@click.option("--all-tasks", is_flag=True, help="Play every task of the split.")
@click.option("--split", default="eval", show_default=True, help="Which tasks.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the episodes.")
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

    A SUITE.toml names several environments, with their splits and arguments.

    \b
    agentrl audit agentrl/Shop-v0
    agentrl audit ./my_env.py:MyEnv --split eval --all-tasks --json
    agentrl audit suite.toml

    It needs no model. `agentrl check` asks whether an environment works. Exit code 1 if a flaw is an error.
    """
    given = {"seed": seed, "max_concurrency": concurrency, "checks": checks or None}
    num_tasks = None if all_tasks else tasks
    report: AuditReport | SuiteAudit
    if env.endswith(".toml"):
        for name in ("kwargs", "split"):
            if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError("--kwarg and --split are of one environment: a suite's file names its own")
        report = _of_suite(env, {**given, "num_tasks": num_tasks})
    else:
        report = _of_env(env, kwargs, {**given, "split": split, "num_tasks": num_tasks})
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(report.to_text())
    if not report.ok:
        ctx.exit(EXIT_FAILED)


def _of_env(env: str, kwargs: tuple[str, ...], given: Mapping[str, Any]) -> AuditReport:
    registry.spec(env)
    ref = registry.reference(env, **arguments_of(kwargs, "--kwarg"))
    note(f"Auditing {env}")
    with Counter("episodes") as counter:
        return audit(ref, on_progress=lambda _, count: counter.show(count), **given)


def _of_suite(path: str, given: Mapping[str, Any]) -> SuiteAudit:
    suite = load_suite(path)
    note(f"Auditing {len(suite.envs)} environments of {path}")
    with Counter("episodes") as counter:
        return audit_suite(suite, on_progress=lambda _, count: counter.show(count), **given)
