"""Policies by name, as commands and configurations write them: `oracle`, `local:DIR`, `openai:NAME`, `./file.py:Name`.

Owns the grammar and its errors. Torch and httpx are imported only for the kinds that need them.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentrl.errors import ConfigError, ModelError, did_you_mean
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.function import FunctionPolicy
from agentrl.policy.remote.apis import APIS, NAMES
from agentrl.registry import Registry, load_reference

if TYPE_CHECKING:
    from agentrl.policy.scripted import Prompt

GRAMMAR = (
    "oracle | null | random | human | scripted:NAME | local:DIR | openai:NAME | responses:NAME | anthropic:NAME | "
    "./file.py:NAME | module:NAME"
)
_PLAIN = ("oracle", "null", "random", "human")
# What the part after the colon is, for the kinds that have one.
_ARGUMENTS: Mapping[str, str] = {
    "scripted": "the name of a demonstrator method of the environment",
    "local": "a folder with a transformers model",
    **dict.fromkeys(APIS, "the model's name as the server knows it"),
}
_SEARCH_DEPTH = 3
# The kind of a policy that is named by a reference to code.
CODE = "code"
_REFERENCE = re.compile(r"([A-Za-z_]\w*)(?:\.\w+)*:[A-Za-z_]\w*")
POLICIES = Registry(
    "policy",
    "agentrl.policies",
    {kind: f"agentrl.policy.by_name:_{kind}" for kind in (*_PLAIN, *_ARGUMENTS)},
)
"""Makers of policies by the first word of their name: `make(argument, setup) -> Policy`."""


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """A parsed name: `local:runs/x/model` has kind `local` and argument `runs/x/model`.

    A reference, `./file.py:Name` or `package.module:Name`, has kind `code` and is the argument.
    """

    kind: str
    argument: str = ""

    def __str__(self) -> str:
        if self.kind == CODE:
            return self.argument
        return f"{self.kind}:{self.argument}" if self.argument else self.kind


@dataclass(frozen=True)
class PolicySetup:
    """What a policy may need in addition to its name; each kind reads only the fields that it needs.

    Attributes:
        base_url: address of the server, for `openai:`, `responses:` and `anthropic:`.
        api_key_env: environment variable with its key; None is the API's own.
        sampling: default sampling of a model.
        seed: of the policy's own random choices (`random`, `local`).
        prompt: how `human` is asked.
        demonstrators: names that `scripted:` may take; None lets the environment decide at its start.
        chat: further arguments of a policy behind a server (`timeout_s`, `max_retries`, `extra_body`, …).
        local: further arguments of `LocalPolicy.from_folder` (`device`, …).
    """

    base_url: str | None = None
    api_key_env: str | None = None
    sampling: SamplingParams | None = None
    seed: int = 0
    prompt: Prompt | None = None
    demonstrators: Sequence[str] | None = None
    chat: Mapping[str, Any] = field(default_factory=dict)
    local: Mapping[str, Any] = field(default_factory=dict)


def parse_spec(text: str) -> PolicySpec:
    """Read a policy's name; nothing is imported.

    Raises: ConfigError that names the nearest kind, or what is missing after the colon.
    """
    kind, colon, argument = text.strip().partition(":")
    if kind in _PLAIN:
        if colon:
            raise ConfigError(f"policy {text!r}: {kind!r} takes nothing after it; write {kind!r}")
        return PolicySpec(kind)
    if kind not in POLICIES.names and _is_reference(text.strip()):
        return PolicySpec(CODE, text.strip())
    if kind not in POLICIES.names:
        raise ConfigError(f"no policy {text!r}.{_nearest(text, kind, argument)} A policy is {GRAMMAR}")
    if kind in _ARGUMENTS and not argument.strip():
        raise ConfigError(f"policy {text!r}: after '{kind}:' comes {_ARGUMENTS[kind]}")
    return PolicySpec(kind, argument)


def _is_reference(text: str) -> bool:
    """Whether this names code: a file, or a name in a module that is installed."""
    found = _REFERENCE.fullmatch(text)
    return ".py:" in text or (found is not None and importlib.util.find_spec(found[1]) is not None)


def _nearest(text: str, kind: str, argument: str) -> str:
    if Path(text).is_dir():
        return f" Did you mean 'local:{text}'?"
    close = difflib.get_close_matches(kind, (*_PLAIN, *_ARGUMENTS), n=1)
    if not close:
        return "" if argument else f" A model behind a server is 'openai:{text}'."
    return (
        f" Did you mean '{close[0]}:{argument}'?"
        if close[0] in _ARGUMENTS and argument
        else f" Did you mean {close[0]!r}?"
    )


def default_sampling(spec: str | PolicySpec) -> SamplingParams:
    """The default sampling of a policy, for callers that change single values of it."""
    if (parse_spec(spec) if isinstance(spec, str) else spec).kind in APIS:
        from agentrl.policy.chat import DEFAULT_SAMPLING

        return DEFAULT_SAMPLING
    return SamplingParams()


def resolve(spec: str | PolicySpec, setup: PolicySetup | None = None, **more: Any) -> Policy:
    """The policy of a name.

    Args:
        spec: for example `oracle`, `scripted:hasty`, `local:runs/quickstart/model`, `openai:gpt-4o`.
        setup: what it may need; fields can also be given directly (`base_url="http://localhost:8000/v1"`).
    Raises:
        ConfigError: the name or the set-up is wrong.
        ModelError: the folder cannot be used.
    """
    setup = setup or PolicySetup(**more)
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    if setup.base_url is not None and spec.kind not in APIS:
        raise ConfigError(f"a base URL goes with {NAMES}, not with {str(spec)!r}")
    make = _code if spec.kind == CODE else POLICIES.find(spec.kind)
    policy: Policy = make(spec.argument, setup)
    return policy


def _oracle(_: str, setup: PolicySetup) -> Policy:
    return _scripted("oracle", setup)


def _scripted(name: str, setup: PolicySetup) -> Policy:
    from agentrl.policy.scripted import OraclePolicy

    if setup.demonstrators is not None and name not in setup.demonstrators:
        raise ConfigError(f"the environment has no demonstrator {name!r}.{did_you_mean(name, setup.demonstrators)}")
    policy = OraclePolicy({name: 1.0}, seed=setup.seed)
    policy.name = "oracle" if name == "oracle" else f"scripted:{name}"
    return policy


def _null(_: str, setup: PolicySetup) -> Policy:
    from agentrl.policy.scripted import NullPolicy

    return NullPolicy()


def _random(_: str, setup: PolicySetup) -> Policy:
    from agentrl.policy.scripted import RandomPolicy

    return RandomPolicy(seed=setup.seed)


def _human(_: str, setup: PolicySetup) -> Policy:
    from agentrl.policy.scripted import HumanPolicy

    if setup.prompt is None:
        raise ConfigError("policy 'human' needs somebody to ask: use `agentrl play ENV`, or give a prompt function")
    return HumanPolicy(setup.prompt)


def _code(reference: str, setup: PolicySetup) -> Policy:
    """A policy that is named by a reference: an object, what makes one of nothing or of the set-up, or a function."""
    found = load_reference(reference)
    if inspect.iscoroutinefunction(found):
        return FunctionPolicy(found, reference)
    if not isinstance(found, Policy) and callable(found) and (needed := _num_needed(found)) < 2:
        found = found(setup) if needed else found()
    if not isinstance(found, Policy):
        raise ConfigError(
            f"policy {reference!r} is {type(found).__name__}: name a Policy, a class or function that makes one of no "
            "arguments or of a PolicySetup (from agentrl.policy.base import Policy), or `async def agent(messages, "
            "tools)`"
        )
    if found.name == Policy.name:
        found.name = reference
    return found


def _num_needed(made: Any) -> int:
    """How many arguments something cannot be called without."""
    return sum(p.default is p.empty and p.kind <= 1 for p in inspect.signature(made).parameters.values())


def _local(folder: str, setup: PolicySetup) -> Policy:
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise ModelError(_no_model(path))
    # Torch takes seconds to import: only now, when there is a model to load.
    from agentrl.policy.local import LocalPolicy

    own = {"seed": setup.seed} | ({"sampling": setup.sampling} if setup.sampling is not None else {})
    policy = LocalPolicy.from_folder(path, **{**own, **setup.local})
    policy.name = f"local:{folder}"
    return policy


def _no_model(path: Path) -> str:
    if not path.exists():
        near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        return f"there is no folder {str(path)!r}.{near if near.startswith(' Did') else ''}"
    if not path.is_dir():
        return f"{str(path)!r} is a file: give the folder that holds config.json and the weights"
    patterns = ["/".join(["*"] * depth + ["config.json"]) for depth in range(1, _SEARCH_DEPTH + 1)]
    inside = sorted((p for pattern in patterns for p in path.glob(pattern)), key=lambda p: p.stat().st_mtime)
    hint = f" Did you mean 'local:{inside[-1].parent}'?" if inside else ""
    return f"the folder {str(path)!r} holds no model: config.json is missing.{hint}"


def _openai(model: str, setup: PolicySetup) -> Policy:
    from agentrl.policy.chat import ChatPolicy

    return ChatPolicy(model, **_of_server(setup))


def _responses(model: str, setup: PolicySetup) -> Policy:
    from agentrl.policy.chat import ResponsesPolicy

    return ResponsesPolicy(model, **_of_server(setup))


def _anthropic(model: str, setup: PolicySetup) -> Policy:
    from agentrl.policy.chat import AnthropicPolicy

    return AnthropicPolicy(model, **_of_server(setup))


def _of_server(setup: PolicySetup) -> dict[str, Any]:
    own = {"base_url": setup.base_url, "api_key_env": setup.api_key_env, "sampling": setup.sampling}
    return {**own, **setup.chat}
