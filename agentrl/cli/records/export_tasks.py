"""`agentrl export-tasks`: tasks of an environment as folders of another system. Owns the options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from agentrl.adapters.harbor.export import export_tasks
from agentrl.cli.boundary import json_option, note, print_json, say
from agentrl.cli.env_options import kwarg_option
from agentrl.config import arguments_of
from agentrl.env import registry


@click.command("export-tasks")
@click.argument("env")
@click.option(
    "--format", "form", type=click.Choice(["harbor"]), required=True, help="harbor: task folders, schema 1.4."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option("--split", default="eval", show_default=True, help="Which tasks.")
@click.option("--tasks", type=click.IntRange(1), help="How many tasks of the split; all by default.")
@kwarg_option
@json_option
def command(
    env: str, form: str, out: Path, split: str, tasks: int | None, kwargs: Sequence[str], as_json: bool
) -> None:
    """Write the tasks of ENV as folders that another system can run: request, files, tests and solution.

    \b
    agentrl export-tasks agentrl/Terminal-v0 --format harbor --out tasks
    agentrl bench suites/Harbor-v1 --kwarg folder=tasks --policy oracle

    The environment's class has a method `task_folder`. The folders hold the solutions: give agents only their request.
    """
    note(f"Writing tasks of {env} to {out}")
    done = export_tasks(registry.reference(env, **arguments_of(kwargs, "--kwarg")), out, split=split, limit=tasks)
    if as_json:
        print_json(done.to_json())
        return
    say(f"{len(done.folders)} task folders for Harbor\nFolder: {done.out}")
