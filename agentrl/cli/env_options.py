"""`--kwarg`, which every command that makes an environment has. Owns the option, not how its value is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
_HELP = "An argument of the environment, as in env.kwargs of a training file, such as data=diabetes; repeatable."


def kwarg_option(function: F) -> F:
    """`--kwarg KEY=VALUE`, as the parameter `kwargs`: texts for `agentrl.config.arguments_of`."""
    return click.option("--kwarg", "kwargs", multiple=True, metavar="KEY=VALUE", help=_HELP)(function)
