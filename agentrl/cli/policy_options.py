"""The options by which a command takes a policy: its name, its server, its chat format and how it samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from agentrl.config import load_config
from agentrl.errors import ConfigError
from agentrl.policy.base import SamplingParams
from agentrl.policy.by_name import GRAMMAR, PolicySetup, default_sampling, parse_spec
from agentrl.policy.remote.apis import APIS, NAMES
from agentrl.policy.remote.options import ChatOptions

F = TypeVar("F", bound=Callable[..., Any])
_FORMATS = "How a local model's calls are written and read: auto, template, generic, hermes, llama3_json, harmony."
CHAT_FORMAT = click.option("--chat-format", metavar="NAME", help=_FORMATS)
CHAT_TEMPLATE = click.option(
    "--chat-template", metavar="FILE", help="Jinja file that replaces a local model's chat template."
)
_CHAT = "A setting of requests to the server, such as timeout_s=60 or max_retries=2; repeatable."
_EXACT = "Sample a local model's turns with the same bits whatever runs at the same time; where possible by default."
_KEYS = " or ".join(dict.fromkeys(api.key_env for api in APIS.values()))
_OPTIONS = (
    click.option("--policy", default="oracle", show_default=True, help=GRAMMAR),
    click.option("--base-url", help="Address of the server, such as http://localhost:8000/v1."),
    click.option("--api-key-env", help=f"Variable that holds its key: {_KEYS} by default."),
    click.option("--chat", "chat", multiple=True, metavar="KEY=VALUE", help=_CHAT),
    CHAT_FORMAT,
    CHAT_TEMPLATE,
    click.option("--max-context", type=click.IntRange(1), help="Most tokens of an episode of a local model."),
    click.option("--device", help="Where a local model runs: cpu (the default), cuda, cuda:1."),
    click.option("--exact/--no-exact", default=None, help=_EXACT),
    click.option("--temperature", type=click.FloatRange(0), help="0 is greedy; the policy's own by default."),
    click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Nucleus mass; 1 keeps all tokens."),
    click.option("--top-k", type=click.IntRange(0), help="Keep the most likely tokens alone; 0 keeps all."),
    click.option("--max-tokens", type=click.IntRange(1), help="Most tokens of one turn; the policy's own by default."),
)


@dataclass(frozen=True)
class GivenPolicy:
    """A policy as options name it.

    Attributes:
        name: for example `local:DIR`.
        setup: what it needs in addition.
    """

    name: str
    setup: PolicySetup


def policy_options(command: F) -> F:
    """Give a command the options of a policy; `policy_of` reads them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def policy_of(options: Mapping[str, Any], *, seed: int = 0) -> GivenPolicy:
    """The policy that the options name.

    Args:
        options: as click passes them.
        seed: of the policy's own random choices.
    Raises: ConfigError if the name is wrong, or an option does not go with it.
    """
    name: str = options["policy"]
    kind = parse_spec(name).kind
    local = {
        "chat_format": options["chat_format"],
        "chat_template": read_template(options["chat_template"]),
        "max_context": options["max_context"],
        "device": options["device"],
        "exact": options["exact"],
    }
    local = {key: value for key, value in local.items() if value is not None}
    chat = chat_options(options["chat"])
    own = ("oracle", "null", "random", "scripted", "human", "local", *APIS)  # others may read what they like
    if local and kind != "local" and kind in own:
        raise ConfigError(f"--{next(iter(local)).replace('_', '-')} goes with local:..., not with {name!r}")
    if chat and kind not in APIS and kind in own:
        raise ConfigError(f"--chat goes with {NAMES}, not with {name!r}")
    setup = PolicySetup(
        options["base_url"], options["api_key_env"], _sampling(name, options), seed, chat=chat, local=local
    )
    return GivenPolicy(name, setup)


def chat_options(given: Sequence[str]) -> dict[str, Any]:
    """Fields of `ChatOptions` as `key=value` texts. Raises: ConfigError for an unknown key or a wrong value."""
    if not given:
        return {}
    keys = [text.partition("=")[0].strip().partition(".")[0] for text in given]
    read = load_config(ChatOptions, None, given)
    return {key: getattr(read, key) for key in keys}


def _sampling(policy: str, options: Mapping[str, Any]) -> SamplingParams | None:
    """The sampling that the options ask for; None if they ask for none, so that the policy keeps its own."""
    names = ("temperature", "top_p", "top_k", "max_tokens")
    known: dict[str, Any] = {name: options[name] for name in names if options[name] is not None}
    return replace(default_sampling(policy), **known) if known else None


def read_template(path: str | None) -> str | None:
    """The text of `--chat-template`; None where it is not given. Raises: ConfigError if it cannot be read."""
    if path is None:
        return None
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--chat-template {path!r} cannot be read: {error}") from error
