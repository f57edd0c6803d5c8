"""The options of a policy, and that every option and key which a message names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import click
import pytest
from click.testing import CliRunner

import agentrl
from agentrl.bench.suites.suite import load_suite
from agentrl.cli import COMMANDS, main
from agentrl.cli.policy_options import chat_options, policy_of, policy_options
from agentrl.errors import ConfigError
from agentrl.policy.by_name import PolicySetup
from agentrl.policy.remote.options import ChatOptions
from agentrl.training.plan import TrainConfig


def given(*arguments: str) -> Any:
    """What a command with the options of a policy gets for a command line."""
    found: list[Any] = []

    @click.command()
    @policy_options
    def command(**options: Any) -> None:
        found.append(policy_of(options, seed=5))

    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return found[0]


def test_a_local_model_gets_its_format_template_and_sampling(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    template = ["--chat-template", str(tmp_path / "chat.jinja")]
    policy = given("--policy", "local:x", "--chat-format", "generic", *template, "--top-p", "0.9")
    assert policy.setup.local == {"chat_format": "generic", "chat_template": "{{ messages }}"}
    assert (policy.setup.sampling.top_p, policy.setup.seed, policy.setup.chat) == (0.9, 5, {})


# A value of each option of a policy behind a server, as TOML; none of them is the default.
EVERY_OPTION = {
    "timeout_s": "7.5", "max_retries": "1", "max_backoff_s": "2.0", "max_wait_s": "3.0", "max_concurrency": "4",
    "requests_per_minute": "60.0", "tool_choice": '"required"', "parallel_tool_calls": "false",
    "max_tokens_field": '"max_completion_tokens"', "send_reasoning": "false", "max_reply_bytes": "1000",
    "return_token_ids": "true", "extra_body": "{ top_k = 5 }", "omit": '["seed"]', "headers": '{ x-team = "a" }',
}  # fmt: skip


def test_every_option_of_requests_is_on_the_command_line_and_in_a_suite(tmp_path: Path) -> None:
    names = {field.name for field in fields(ChatOptions)}
    assert set(EVERY_OPTION) == names
    arguments = [part for key, text in EVERY_OPTION.items() for part in ("--chat", f"{key}={text}")]
    chat = given("--policy", "openai:m", *arguments).setup.chat
    assert (chat["timeout_s"], chat["tool_choice"], chat["parallel_tool_calls"]) == (7.5, "required", False)
    assert (chat["extra_body"], chat["headers"], chat["max_reply_bytes"]) == ({"top_k": 5}, {"x-team": "a"}, 1000)
    assert chat_options(["extra_body.top_k=5"]) == {"extra_body": {"top_k": 5}}
    table = "\n".join(f"{key} = {text}" for key, text in EVERY_OPTION.items())
    suite = tmp_path / "suite.toml"
    suite.write_text(f'[chat]\n{table}\n[envs.shop]\nid = "agentrl/Shop-v0"\n')
    found = load_suite(suite).setup_of("openai:m", PolicySetup()).chat
    assert found == chat
    assert found.keys() == names
    assert all(value != getattr(ChatOptions(), name) for name, value in found.items())


def test_the_command_line_counts_before_a_suite(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(
        'base_url = "http://suite/v1"\napi_key_env = "SUITE_KEY"\n'
        '[chat]\ntimeout_s = 9.0\nmax_retries = 2\nrequests_per_minute = "none"\n'
        '[envs.shop]\nid = "agentrl/Shop-v0"\n'
    )
    suite = load_suite(path)
    asked = given("--policy", "anthropic:m", "--chat", "timeout_s=5.0", "--base-url", "http://here")
    setup = suite.setup_of("anthropic:m", asked.setup)
    assert setup.chat == {"timeout_s": 5.0, "max_retries": 2}
    assert (setup.base_url, setup.api_key_env) == ("http://here", "SUITE_KEY")
    # A policy that asks no server is not concerned.
    assert suite.setup_of("local:x", PolicySetup()) == PolicySetup()


def test_a_wrong_option_in_a_suite_is_named(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text('[chat]\ntimeout = 9.0\n[envs.shop]\nid = "agentrl/Shop-v0"\n')
    with pytest.raises(ConfigError, match=r"unknown key 'chat.timeout'.* Did you mean"):
        load_suite(path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policy", "openai:m", "--chat", "timeout=3"], "timeout"),
        (["--policy", "openai:m", "--chat", "max_retries=-1"], "max_retries 0 or more"),
        (["--policy", "openai:m", "--chat-format", "hermes"], "--chat-format goes with local:..., not with 'openai:m'"),
        (["--policy", "local:x", "--chat", "max_retries=1"], "responses:NAME or anthropic:NAME, not with 'local:x'"),
        (["--policy", "local:x", "--chat-template", "nowhere.jinja"], "'nowhere.jinja' cannot be read"),
    ],
)
def test_options_that_cannot_work_are_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        given(*arguments)


# Messages.

SOURCES = sorted(Path(agentrl.__file__).parent.rglob("*.py"))
# Programs of others, whose options are named in commands that we run or recommend.
FOREIGN = re.compile(
    r"\b(apt-get|pip|npm|ps|ls|docker|podman|systemd-run|openenv|vllm|vLLM|SGLang|ray|python -m (?!agentrl))\b"
)


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """The texts in a file that a program can show, so no docstrings; the parts of an f-string are one text."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    inside |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def known_options() -> set[str]:
    commands: list[click.Command] = [main, *(main.get_command(click.Context(main), name) for name in COMMANDS)]  # type: ignore[list-item]
    own = {text for c in commands for p in c.params for text in (*p.opts, *p.secondary_opts)}
    return own | {"--help", "--version"}


def test_every_option_that_a_message_names_exists() -> None:
    known = known_options()
    unknown = [
        f"{path.name}:{line}: {option}"
        for path in SOURCES
        for line, text in literals(path)
        if " " in text and not FOREIGN.search(text)
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)
        if option not in known
    ]
    assert unknown == []


def keys_of(config: type) -> Iterator[str]:
    hints = get_type_hints(config)
    for field in fields(config):
        kind = hints[field.name]
        if isinstance(kind, type) and is_dataclass(kind):
            yield from (f"{field.name}.{inner.name}" for inner in fields(kind))


@pytest.mark.parametrize("name", ["bench", "train", "export", "serve-model"])
def test_every_command_that_takes_a_model_takes_its_chat_format_and_template(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert {"--chat-format", "--chat-template"} <= {option for p in command.params for option in p.opts}


def test_every_key_that_a_message_names_exists() -> None:
    known = set(keys_of(TrainConfig))
    sections = {key.partition(".")[0] for key in known}
    named = re.compile(rf"(?<![\w./-])({'|'.join(sorted(sections))})\.([a-z][a-z_]+)\b(?!\()")
    unknown = [
        f"{path.name}:{line}: {section}.{key}"
        for path in SOURCES
        for line, text in literals(path)
        if " " in text
        for section, key in named.findall(text)
        if f"{section}.{key}" not in known
    ]
    assert unknown == []
