"""`agentrl check`: our checks of an environment, as a report."""

from __future__ import annotations

import json

import click

from agentrl.cli.boundary import EXIT_FAILED, json_option, note, print_json, say
from agentrl.cli.env_options import kwarg_option
from agentrl.config import arguments_of


@click.command("check")
@click.argument("env")
@kwarg_option
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds that an episode, or a call of a tool, may take.",
)
@json_option
@click.pass_context
def command(ctx: click.Context, env: str, kwargs: tuple[str, ...], timeout_s: float, as_json: bool) -> None:
    """Find what is wrong with ENV, an id, `module:Class` or `./file.py:Class`.

    Exit code 1 if something is.
    """
    from agentrl.env.check import check_env  # imports gymnasium's checker: half a second
    from agentrl.env.watchdog import end_when_hung

    end_when_hung(None)  # the check itself reports what hangs
    if not as_json:
        note(f"Checking {env}")
    report = check_env(env, timeout_s=timeout_s, **arguments_of(kwargs, "--kwarg"))
    if as_json:
        print_json(json.loads(report.to_json()))
    else:
        say(report.to_text())
    if not report.ok:
        ctx.exit(EXIT_FAILED)
