"""`agentrl play`: a person is the policy, in a terminal or through a pipe."""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from agentrl.cli.boundary import debug_option, say
from agentrl.cli.env_options import kwarg_option
from agentrl.config import arguments_of
from agentrl.env import registry
from agentrl.env.base import Env
from agentrl.messages import Action, Message, ToolCall
from agentrl.rollout.episode import ending_of
from agentrl.safe_json import for_terminal
from agentrl.trajectory import Ending

HELP = """\
  tool {"arg": 1}    call a tool with JSON arguments
  tool arg=1 b=tea   the same, shorter; quote words with spaces; lists and objects are JSON: c=[1, 2]
  any other text     your answer
  /say TEXT          answer with a text that begins like a tool
  /tools  /help  /quit"""


@click.command("play")
@click.argument("env")
@click.option("--task", help="Id of a task.")
@click.option("--split", help="Draw the task from this split; the first one by default.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the episode.")
@kwarg_option
@debug_option
def command(env: str, kwargs: tuple[str, ...], task: str | None, split: str | None, seed: int) -> None:
    """Be the agent of ENV: read what a model would read, call tools, answer."""
    made = registry.make(env, **arguments_of(kwargs, "--kwarg"))
    options: dict[str, Any] = {} if split is None else {"split": split}
    if task is not None:
        options["task"] = task
    try:
        play_episode(made, _lines(), seed=seed, options=options)
    finally:
        made.close()


def _lines() -> Iterator[str]:
    """What the person types; stdin may be a pipe."""
    while True:
        click.echo("> ", nl=False)
        line = sys.stdin.readline()
        if not line:
            click.echo()
            return
        if not sys.stdin.isatty():
            say(line.rstrip("\n"))
        yield line.strip()


def play_episode(env: Env, lines: Iterable[str], *, seed: int, options: Mapping[str, Any]) -> float | None:
    """Play one episode with lines from a person.

    Returns: its reward, or None if the lines ended or `/quit` was typed before the episode ended.
    """
    observation, info = env.reset(seed=seed, options=dict(options))
    say(f"Task {info.get('task_id', env.task.id)}. /help shows how to play.")
    show_tools(env.tool_schemas)
    show(observation)
    total, turn = 0.0, 0
    for line in lines:
        if line == "/quit":
            break
        action = read_line(line, env.tool_schemas)
        if action is None:
            continue
        turn += 1
        observation, reward, terminated, truncated, info = env.step(_numbered(action, turn))
        total += float(reward)
        show(observation)
        if terminated or truncated:
            _show_end(total, info, ending_of(env, truncated=truncated))
            return total
    say("The episode was left unfinished; no reward.")
    return None


def _numbered(action: Action, turn: int) -> Action:
    calls = tuple(ToolCall(c.name, c.arguments, f"call_{turn}_{i}") for i, c in enumerate(action.tool_calls))
    return Action(action.text, calls)


def _show_end(total: float, info: Mapping[str, Any], ending: Ending) -> None:
    parts = info.get("reward_components") or {}
    named = "".join(f", {name} {value:g}" for name, value in parts.items() if name != "reward")
    ended = f"cut off ({ending.detail})" if ending.kind == "limit" else "over"
    say(f"The episode is {ended}. Reward {total:g}{named}")


def read_line(line: str, tools: Sequence[Mapping[str, Any]]) -> Action | None:
    """The action of a typed line; None for a command or an empty line, and, with a message, for an unreadable one."""
    if line == "/help":
        say(HELP)
        return None
    if line == "/tools":
        show_tools(tools)
        return None
    if line.startswith("/say "):
        return Action(line.removeprefix("/say ").strip())
    if line.startswith("/"):
        say(f"There is no {line.split()[0]}. /help lists the commands.")
        return None
    name, _, rest = line.partition(" ")
    schema = next((tool["function"] for tool in tools if tool["function"]["name"] == name), None)
    if schema is None:
        return Action(line) if line else None
    try:
        return Action(tool_calls=(ToolCall(name, read_arguments(rest.strip(), schema.get("parameters") or {})),))
    except ValueError as error:
        say(f"{error}. Write {usage(schema)}, or /say {line}")
        return None


def read_arguments(text: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments from a JSON object or from `name=value` words.

    Raises: ValueError if they are neither.
    """
    if text.startswith("{"):
        return dict(json.loads(text))
    arguments: dict[str, Any] = {}
    while text:
        name, _, rest = text.partition("=")
        schema = parameters.get("properties", {}).get(name, {})
        found = _json_at_start(rest) if rest[:1] in ("[", "{") and schema.get("type") != "string" else None
        if found is not None:
            arguments[name], text = found
            continue
        word, text = _first_word(text)
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is not name=value")
        arguments[name] = _value(value, schema)
    return arguments


def _json_at_start(text: str) -> tuple[Any, str] | None:
    """A JSON list or object, whose quotes a shell would remove, and the text after it; None if it is none."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return None
    return value, text[end:].strip()


def _first_word(text: str) -> tuple[str, str]:
    """The first word, without its quotes, and the text after it. Raises: ValueError if a quote is not closed."""
    stream = io.StringIO(text)
    words = shlex.shlex(stream, posix=True)
    words.whitespace_split, words.commenters = True, ""
    return words.get_token() or "", stream.read().strip()


def _value(text: str, schema: Mapping[str, Any]) -> Any:
    if schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def usage(schema: Mapping[str, Any]) -> str:
    """`price item=<string> [currency=<string>]`."""
    parameters = schema.get("parameters") or {}
    required = parameters.get("required", ())
    words = [
        f"{name}=<{part.get('type', 'value')}>" if name in required else f"[{name}=<{part.get('type', 'value')}>]"
        for name, part in parameters.get("properties", {}).items()
    ]
    return " ".join([schema["name"], *words])


def show_tools(tools: Sequence[Mapping[str, Any]]) -> None:
    """One line per tool: how to call it, and what it does."""
    for tool in tools:
        function = tool["function"]
        about = (function.get("description") or "").split("\n")[0]
        say(f"  {usage(function)}    {about}".rstrip())


def show(messages: Sequence[Message]) -> None:
    """Messages as a model would read them."""
    for message in messages:
        who = message.name or message.role
        text = message.content.replace("\n", "\n" + " " * (len(who) + 2))
        click.echo(f"{click.style(for_terminal(who), bold=True)}: {for_terminal(text)}")
