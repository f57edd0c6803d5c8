"""The options by which a command takes a judge: its name, its rubric, its server and its cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from agentrl.cli.policy_options import chat_options
from agentrl.errors import ConfigError
from agentrl.policy.by_name import PolicySetup
from agentrl.rollout.judging.judge import SAMPLING, Judge, check_name

F = TypeVar("F", bound=Callable[..., Any])
_JUDGE = "The model that judges the episodes, such as openai:NAME, local:DIR or ./file.py:NAME; needs --rubric."
_RUBRIC = "What the judge judges by: a text, or a .toml, .md or .txt file."
_OPTIONS = (
    click.option("--judge", metavar="NAME", help=_JUDGE),
    click.option("--rubric", metavar="TEXT|FILE", help=_RUBRIC),
    click.option("--judge-base-url", metavar="URL", help="Address of the judge's server."),
    click.option(
        "--judge-api-key-env",
        metavar="NAME",
        help="Variable that holds the key of the judge's server; the API's own by default.",
    ),
    click.option(
        "--judge-chat",
        multiple=True,
        metavar="KEY=VALUE",
        help="A setting of requests to the judge's server, as --chat.",
    ),
    click.option(
        "--judge-max-tokens", type=click.IntRange(1), help="Most tokens of one answer of the judge; 1024 by default."
    ),
    click.option(
        "--judge-cache",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File that keeps verdicts, so that none is asked for twice.",
    ),
)
CACHE = "verdicts.sqlite"


def judge_options(command: F) -> F:
    """Give a command the options of a judge; `judge_of` reads them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def judge_of(options: Mapping[str, Any], folder: Path | None = None) -> Judge | None:
    """The judge that the options name; None if they name none.

    Args:
        options: as click passes them.
        folder: of the run, where verdicts are kept unless the options name a file.
    Raises: ConfigError if one of the two options is missing, or the judge reads no rubric.
    """
    name, rubric = options["judge"], options["rubric"]
    if name is None and rubric is None:
        return None
    if name is None or rubric is None:
        given, missing = ("--rubric", "--judge openai:NAME") if name is None else ("--judge", "--rubric TEXT|FILE")
        raise ConfigError(f"{given} is given without the other: a judge needs both, add {missing}")
    check_name(name, "--judge ")
    cache = options["judge_cache"] or (None if folder is None else folder / CACHE)
    chat = chat_options(options["judge_chat"])
    setup = PolicySetup(options["judge_base_url"], options["judge_api_key_env"], chat=chat)
    sampling = replace(SAMPLING, max_tokens=options["judge_max_tokens"] or SAMPLING.max_tokens)
    return Judge(name, rubric, setup=setup, cache=cache, sampling=sampling)
