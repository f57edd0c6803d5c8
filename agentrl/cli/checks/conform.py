"""`agentrl conform`: an environment through every door, as a table."""

from __future__ import annotations

import click

from agentrl.cli.boundary import EXIT_FAILED, json_option, note, print_json, say
from agentrl.cli.env_options import kwarg_option
from agentrl.config import arguments_of
from agentrl.errors import ConfigError


@click.command("conform")
@click.argument("env")
@kwarg_option
@click.option(
    "--episodes", type=click.IntRange(1), default=4, show_default=True, help="Episodes to play through each door."
)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="PACKAGE=PATH",
    help="A Python that has a package which this one does not, such as openenv=.venv-openenv/bin/python; repeatable.",
)
@click.option(
    "--tools",
    metavar="FOLDER",
    default=".venv-conform",
    show_default=True,
    help="Folder with a virtual environment or an npm folder for each external package, named after it.",
)
@click.option(
    "--base", metavar="IMAGE", default="", help="Build the Dockerfile on this image, not on python:3.11-slim."
)
@click.option(
    "--door", "doors", multiple=True, metavar="NAME", help="Try this door alone, named as in the table; repeatable."
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    env: str,
    kwargs: tuple[str, ...],
    episodes: int,
    pythons: tuple[str, ...],
    tools: str,
    base: str,
    doors: tuple[str, ...],
    as_json: bool,
) -> None:
    """Play the same episodes of ENV through every door, and compare.

    Doors are our own server, Gymnasium, OpenEnv, MCP in both of its eras, three chat APIs, Harbor, ATIF, Inspect,
    verifiers and the Dockerfile. Other frameworks' own clients, readers and conformance suites judge. A door whose
    package is missing is not run, and the table says how to install it. Exit code 1 if a door failed.
    """
    from agentrl.conform.conform import conform

    chosen = {}
    for text in pythons:
        package, equals, path = text.partition("=")
        if not equals or not path:
            raise ConfigError(f"--python is PACKAGE=PATH, got {text!r}")
        chosen[package] = path
    report = conform(
        env,
        episodes=episodes,
        pythons=chosen,
        tools=tools,
        base=base,
        only=doors,
        on_door=lambda door: None if as_json else note(f"{door.name}: {door.outcome}"),
        **arguments_of(kwargs, "--kwarg"),
    )
    if as_json:
        print_json(report.to_json())
    else:
        say(report.to_text())
    if not report.ok:
        ctx.exit(EXIT_FAILED)
