"""`agentrl envs`: every registered environment, and whether it loads."""

from __future__ import annotations

from typing import Any

import click

from agentrl.cli.boundary import json_option, print_json, say
from agentrl.env import registry
from agentrl.errors import PackageMissing


@click.command("envs")
@json_option
def command(as_json: bool) -> None:
    """List the environments: ids, what each is about, and its tools."""
    rows = [describe(env_id) for env_id in registry.env_ids()]
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("No environments are registered. Start one with: agentrl new-env NAME")
        return
    width = max(len(row["id"]) for row in rows)
    for row in rows:
        say(f"{row['id']:<{width}}  {row['description'] if row['error'] is None else row['error']}")


def describe(env_id: str) -> dict[str, Any]:
    """What is registered under an id; `error` says why it does not load."""
    row: dict[str, Any] = {"id": env_id, "description": "", "max_turns": None, "tools": [], "error": None}
    row["known_flaws"] = []
    # An entry point of someone else's package may fail in any way; the list still shows the others.
    try:
        found = registry.spec(env_id)
        row["description"], row["known_flaws"] = found.description, list(found.env_class.known_flaws)
        env = registry.make(env_id)
        row["max_turns"] = env.limits.max_turns
        row["tools"] = [schema["function"]["name"] for schema in env.tool_schemas]
        env.close()
    except PackageMissing as error:
        row["error"] = str(error)
    except Exception as error:  # author code can raise anything; the table has a row for it
        row["error"] = f"does not load: {type(error).__name__}: {error}"
    return row
