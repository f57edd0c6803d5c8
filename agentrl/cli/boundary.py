"""Where errors become messages and exit codes, and results become text or JSON.

Exit codes: 0 done, 1 failed (one message on stderr), 2 wrong usage, 3 done but the result cannot be trusted (a
warning says why), 4 author code hangs, 130 interrupted. With `--json` stdout carries exactly one JSON document, also
when the command fails.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TextIO, TypeVar

import click
from click.exceptions import NoSuchCommand

from agentrl.env.watchdog import end_in_spite_of_threads, end_when_hung
from agentrl.errors import AgentRLError
from agentrl.file_modules import IMPORTER, INSTALLED
from agentrl.interrupts import is_from_outside
from agentrl.safe_json import for_terminal

F = TypeVar("F", bound=Callable[..., Any])
_JSON, _DEBUG = "agentrl.json", "agentrl.debug"
_EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "tokenizers", "safetensors"), "train"),
    **dict.fromkeys(("starlette", "uvicorn"), "serve"),
    **dict.fromkeys(("mcp", "mcp_types"), "mcp"),
}
# Commands whose module stands elsewhere, or has another name: `import` is a word of Python.
_MODULES = {
    **{name: f"checks.{name}" for name in ("audit", "check", "conform", "doctor", "judge", "reproduce")},
    **{name: f"records.{name}" for name in ("replay", "report", "rescore", "status", "view")},
    "import": "import_chats",
    "ship": "cluster.ship",
    "import-gguf": "models.import_gguf",
    "export": "models.export",
    "export-episodes": "records.export_episodes",
    "export-tasks": "records.export_tasks",
    "capture": "models.capture",
    "serve-model": "models.serve_model",
}
EXIT_FAILED, EXIT_UNTRUSTED, EXIT_INTERRUPTED = 1, 3, 130
_OURS = (os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), ""),)


def module_of(command: str) -> str:
    """The module of a command."""
    return f"{__package__}.{_MODULES.get(command, command.replace('-', '_'))}"


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
        found: click.Command = import_module(module_of(cmd_name)).command
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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_JSON] = "--json" in args  # wrong usage may be found before the command has read its options
        return super().parse_args(ctx, args)

    def main(self, args: Sequence[str] | None = None, *more: Any, **further: Any) -> Any:
        try:
            return super().main(args, *more, **further)
        except SystemExit as ending:
            if args is None:  # the command line: this process ends now
                code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
                end_in_spite_of_threads(code, lambda message: say(message, err=True))
            raise

    def invoke(self, ctx: click.Context) -> Any:
        end_when_hung(lambda message: _say(ctx, "Hung", message))
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            place = None if is_from_outside(error) else author_place(error)
            if place is None:
                fail(ctx, "Interrupted", "stopped by Ctrl-C", EXIT_INTERRUPTED)
            fail(ctx, "KeyboardInterrupt", f"it was raised with no Ctrl-C ({place})")
        except click.ClickException as error:
            _say_json(ctx, "Usage", error.format_message())
            raise
        except (BrokenPipeError, click.exceptions.Exit, click.Abort):
            raise
        except SystemExit as error:  # author code that calls sys.exit must not end a command as if it had succeeded
            place = author_place(error)
            fail(ctx, "SystemExit", f"sys.exit({error.code!r}) was called" + (f" ({place})" if place else ""))
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            place = author_place(error)
            if ctx.meta.get(_DEBUG) or (package not in _EXTRAS and place is None):
                raise
            wanted = f"'agentrl[{_extra_of(package, ctx.invoked_subcommand)}]'" if package in _EXTRAS else package
            where = f" ({place})" if place is not None else ""
            fail(ctx, "Missing", f"{error.name} is not installed{where}: pip install {wanted}")
        except AgentRLError as error:
            if ctx.meta.get(_DEBUG):
                raise
            fail(ctx, type(error).__name__, str(error))
        except BaseException as raised:  # an author's code may raise what is no Exception
            own = _own(raised)
            place = author_place(own)
            if ctx.meta.get(_DEBUG) or (place is None and not isinstance(own, (ValueError, OSError))):
                _say_json(ctx, type(own).__name__, str(own))
                raise
            if place is None:
                fail(ctx, "Error", str(own))
            else:
                fail(ctx, type(own).__name__, f"{_reason(own)} ({place}); --debug shows the traceback".lstrip())
        finally:
            end_when_hung(None)
        return None


def _extra_of(package: str, command: str | None) -> str:
    """The extra that brings a package, without what the command does not need."""
    return "viewer" if command == "view" and _EXTRAS[package] == "serve" else _EXTRAS[package]


def fail(ctx: click.Context, kind: str, message: str, code: int = EXIT_FAILED) -> None:
    """Print what went wrong on stderr, and with `--json` on stdout as well, then exit."""
    _say(ctx, kind, message)
    ctx.exit(code)


def say(message: str, *, err: bool = False) -> None:
    """Print a text that may hold what a model or a server wrote: it cannot steer the terminal."""
    click.echo(for_terminal(message), err=err)


def _say(ctx: click.Context, kind: str, message: str) -> None:
    say(f"{kind}: {message}", err=True)
    _say_json(ctx, kind, message)


def _say_json(ctx: click.Context, kind: str, message: str) -> None:
    if ctx.meta.get(_JSON):
        print_json({"error": {"type": kind, "message": message}})


def author_place(error: BaseException) -> str | None:
    """`file:line in function` where an environment author's own code raised; None where it was ours."""
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}" if error.lineno else error.filename
        return where if error.filename and not _is_within(error.filename, _OURS) else None
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_within(f.filename, INSTALLED)]
    frames = [f for f in frames if not f.filename.startswith("<") and f.filename != IMPORTER]
    if not frames:
        return None
    found = frames[-1]
    if _is_within(found.filename, _OURS):  # ours refused what a file of an author holds, while it was imported
        authors = [frame for frame in frames if not _is_within(frame.filename, _OURS)]
        if not authors or authors[-1].name != "<module>":
            return None
        found = authors[-1]
    return f"{os.path.basename(found.filename)}:{found.lineno} in {found.name}"


def _is_within(filename: str, folders: tuple[str, ...]) -> bool:
    path = os.path.abspath(filename)
    # An installed AgentRL is within site-packages, but its files are still ours.
    return path.startswith(folders) and (folders is _OURS or not path.startswith(_OURS))


def _own(error: BaseException) -> BaseException:
    """What author code raised: Python says of a coroutine that a StopIteration left only that there was one."""
    cause = error.__cause__
    return cause if isinstance(error, RuntimeError) and isinstance(cause, StopIteration | StopAsyncIteration) else error


def _reason(error: BaseException) -> str:
    """The text of an exception; that of a KeyError is only a key."""
    if isinstance(error, SyntaxError):
        return error.msg
    return f"key {error} is missing" if isinstance(error, KeyError) else str(error)


def print_json(document: Any, *, indent: int | None = 2) -> None:
    """The one JSON document of a command, on stdout. Args: indent: None writes it in one line."""
    text = for_terminal(json.dumps(document, indent=indent, ensure_ascii=False, default=str))
    click.echo(text, file=_document.stream)


def print_tables(shown: Any, pipe_width: int) -> None:
    """What `rich` renders, on stdout. Args: pipe_width: columns where stdout is no terminal."""
    from rich.console import Console  # not every command has tables

    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else pipe_width
    console.print(_Escaped(shown))


@dataclass(frozen=True)
class _Escaped:
    """What `rich` renders, with texts as `say` prints them."""

    inner: Any

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        for segment in console.render(self.inner, options):
            yield segment if segment.control else segment._replace(text=for_terminal(segment.text))


def note(message: str) -> None:
    """A line for the person watching, on stderr."""
    say(message, err=True)


def _remember(key: str) -> Callable[[click.Context, click.Parameter, bool], bool]:
    def callback(ctx: click.Context, parameter: click.Parameter, value: bool) -> bool:
        ctx.meta[key] = value or bool(ctx.meta.get(key))
        return value

    return callback


class _Document:
    """Where the JSON document of a command goes: what else is printed on stdout meanwhile goes to stderr."""

    stream: TextIO | None = None  # None: the standard output, as it is

    def begin(self, ctx: click.Context) -> None:
        """From here on, `print` of an author's code, and programs that it starts, write to stderr."""
        if self.stream is not None:
            return
        before, number = sys.stdout, None
        self.stream = before
        with suppress(OSError, ValueError, AttributeError):  # standard output is no file, as in a test
            if before.fileno() == 1:
                before.flush()
                number = os.dup(1)
                self.stream = os.fdopen(os.dup(1), "w", encoding=before.encoding, errors=before.errors)
                os.dup2(2, 1)
        sys.stdout = sys.stderr
        ctx.find_root().call_on_close(lambda: self._end(before, number))

    def _end(self, before: TextIO, number: int | None) -> None:
        sys.stdout = before
        if number is not None and self.stream is not None:
            with suppress(OSError):  # the reader of a pipe is gone
                self.stream.close()
            os.dup2(number, 1)
            os.close(number)
        self.stream = None


_document = _Document()


def _remember_json(ctx: click.Context, parameter: click.Parameter, value: bool) -> bool:
    if value and not ctx.resilient_parsing:
        _document.begin(ctx)
    return _remember(_JSON)(ctx, parameter, value)


def json_option(function: F) -> F:
    """`--json`, as the parameter `as_json`."""
    option = click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=_remember_json, help="One JSON document on stdout."
    )
    return option(debug_option(function))


def debug_option(function: F) -> F:
    """`--debug`, which every command has."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, callback=_remember(_DEBUG), help="Show tracebacks."
    )(function)
