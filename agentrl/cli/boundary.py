"""Where errors become messages and exit codes, and results become text or JSON.

Exit codes: 0 done, 1 failed (one message on stderr), 2 wrong usage, 130 interrupted. With `--json` stdout
carries exactly one JSON document, also when the command fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

import click
from click.exceptions import NoSuchCommand

from agentrl.errors import AgentRLError

F = TypeVar("F", bound=Callable[..., Any])
_JSON, _DEBUG = "agentrl.json", "agentrl.debug"
_EXTRAS = {"torch": "train", "transformers": "train", "tokenizers": "train", "safetensors": "train"}
EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


class Commands(click.Group):
    """A group whose commands live in modules of the same name and are imported when called.

    Args:
        summaries: one line of help for each command.
    """

    def __init__(self, *args: Any, summaries: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.summaries = dict(summaries or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.summaries:
            return None
        found: click.Command = import_module(f"{__package__}.{cmd_name.replace('-', '_')}").command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.summaries and not args[0].startswith("-"):
            raise NoSuchCommand(args[0], possibilities=self.summaries, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail(ctx, "Interrupted", "stopped by Ctrl-C", EXIT_INTERRUPTED)
        except BrokenPipeError:
            raise
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None or ctx.meta.get(_DEBUG):
                raise
            fail(ctx, "Missing", f"{error.name} is not installed: pip install 'agentrl[{extra}]'")
        except (AgentRLError, ValueError, OSError) as error:
            if ctx.meta.get(_DEBUG):
                raise
            kind = type(error).__name__ if isinstance(error, AgentRLError) else "Error"
            fail(ctx, kind, str(error))
        return None


def fail(ctx: click.Context, kind: str, message: str, code: int = EXIT_FAILED) -> None:
    """Say on stderr what went wrong, as JSON on stdout too where that was asked for, and exit."""
    click.echo(f"{kind}: {message}", err=True)
    if ctx.meta.get(_JSON):
        print_json({"error": {"type": kind, "message": message}})
    ctx.exit(code)


def print_json(document: Any) -> None:
    """The one JSON document of a command, on stdout."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def note(message: str) -> None:
    """A line for the person watching, on stderr."""
    click.echo(message, err=True)


def _remember(key: str) -> Callable[[click.Context, click.Parameter, bool], bool]:
    def callback(ctx: click.Context, parameter: click.Parameter, value: bool) -> bool:
        ctx.meta[key] = value or bool(ctx.meta.get(key))
        return value

    return callback


def json_option(function: F) -> F:
    """`--json`, as the parameter `as_json`."""
    option = click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=_remember(_JSON), help="One JSON document on stdout."
    )
    return option(debug_option(function))


def debug_option(function: F) -> F:
    """`--debug`, which every command has."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, callback=_remember(_DEBUG), help="Show tracebacks."
    )(function)
