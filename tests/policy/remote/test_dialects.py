"""What all dialects share: a turn goes there and back, tokens, names, errors, and what an API has no field for."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from agentrl.errors import ConfigError, PolicyFault
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.base import SamplingParams
from agentrl.policy.by_name import resolve
from agentrl.policy.chat import ServerPolicy
from tests.policy.conftest import TOOL
from tests.policy.remote.wire_bots import KINDS, PATHS, SERVED, add_numbers, error, reply

QUESTION = (Message("system", "Use the tool."), Message("user", "1+2"))
KEY = "sk-a-key-of-these-tests"


class Server:
    """A server that is a function; it keeps the requests that it gets."""

    def __init__(self, kind: str, *replies: dict[str, Any] | httpx.Response) -> None:
        self.kind, self.replies = kind, list(replies)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        found = self.replies.pop(0) if self.replies else add_numbers(self.kind, json.loads(request.content))
        return found if isinstance(found, httpx.Response) else httpx.Response(200, json=found)

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.requests]

    def policy(self, **options: Any) -> ServerPolicy:
        chat = {"client": httpx.AsyncClient(transport=httpx.MockTransport(self)), "max_retries": 1, **options}
        policy = resolve(f"{self.kind}:bot", base_url="http://server/v1", chat=chat)
        assert isinstance(policy, ServerPolicy)
        return policy


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.policy.remote.options._FIRST_BACKOFF_S", 0.0)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, KEY)


async def turn(policy: ServerPolicy, messages: tuple[Message, ...] = QUESTION, **sampling: Any) -> Action:
    asked = SamplingParams(**{"max_tokens": 40, **sampling})
    return await policy.act(messages, [TOOL], episode_id="e", sampling=asked)


@pytest.mark.parametrize("url", ["htp://user:s3cret@host/v1", "http://user:s3cret/more@host/v1"])
def test_an_address_that_is_wrong_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url") as caught:
        resolve("openai:bot", base_url=url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_and_its_result_go_there_and_back(kind: str) -> None:
    server = Server(kind)
    policy = server.policy()
    first = await turn(policy)
    assert first.tool_calls == (ToolCall("add", {"a": 1, "b": 2}, first.tool_calls[0].id),)
    assert first.finish_reason == "tool_calls"
    result = Message("tool", "3", tool_call_id=first.tool_calls[0].id, name="add")
    second = await turn(policy, (*QUESTION, first.to_message(), result))
    assert (second.text, second.finish_reason, second.tool_calls) == ("3", "stop", ())
    assert [request.url.path for request in server.requests] == [PATHS[kind]] * 2


@pytest.mark.parametrize("kind", KINDS)
async def test_tokens_model_and_latency_are_those_of_the_reply(kind: str) -> None:
    action = await turn(Server(kind).policy())
    written = {"openai": {}, "responses": {"cache_write_tokens": 0}, "anthropic": {"cache_write_tokens": 2}}[kind]
    counts = {"prompt_tokens": 11, "completion_tokens": 3, "cached_tokens": 4, "reasoning_tokens": 2}
    assert action.usage == {**counts, **written}
    assert action.served is not None
    assert (action.served.model, action.served.blocks) == (SERVED, ())
    assert action.served.latency_s is not None
    assert 0 <= action.served.latency_s < 5


@pytest.mark.parametrize(
    ("kind", "reason", "finish"),
    [
        ("openai", "length", "length"),
        ("openai", "content_filter", "content_filter"),
        ("responses", "max_output_tokens", "length"),
        ("responses", "content_filter", "content_filter"),
        ("anthropic", "max_tokens", "length"),
        ("anthropic", "model_context_window_exceeded", "length"),
        ("anthropic", "stop_sequence", "stop"),
        ("anthropic", "refusal", "content_filter"),
    ],
)
async def test_why_a_turn_ended(kind: str, reason: str, finish: str) -> None:
    action = await turn(Server(kind, reply(kind, "Well", finish=reason)).policy())
    assert (action.text, action.finish_reason) == ("Well", finish)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_reason_that_nobody_knows_is_a_fault_of_the_server(kind: str) -> None:
    strange = reply(kind, "Well", finish="something new")
    with pytest.raises(PolicyFault) as raised:
        await turn(Server(kind, strange, strange).policy())
    assert raised.value.at == "server"


# (status, message, code, what becomes of the first turn)
ERRORS: list[tuple[str, int, str, str, str]] = [
    ("openai", 429, "Too many requests", "rate_limit_exceeded", "server"),
    ("responses", 429, "Too many requests", "rate_limit_exceeded", "server"),
    ("anthropic", 429, "Too many requests", "rate_limit_error", "server"),
    ("anthropic", 529, "Overloaded", "overloaded_error", "server"),
    ("anthropic", 500, "Internal server error", "api_error", "server"),
    ("openai", 401, f"Wrong key {KEY}", "invalid_api_key", "config"),
    ("responses", 401, f"Wrong key {KEY}", "invalid_api_key", "config"),
    ("anthropic", 401, f"invalid x-api-key {KEY}", "authentication_error", "config"),
    ("anthropic", 404, "model: bot", "not_found_error", "config"),
    ("anthropic", 402, "Your balance is too low", "billing_error", "config"),
    ("anthropic", 400, "prompt is too long: 210000 tokens > 200000 maximum", "invalid_request_error", "length"),
    ("anthropic", 413, "Request exceeds the maximum size", "request_too_large", "length"),
    ("responses", 400, "Your input exceeds the context window", "context_length_exceeded", "length"),
]


@pytest.mark.parametrize(("kind", "status", "message", "code", "verdict"), ERRORS)
async def test_what_an_error_means(kind: str, status: int, message: str, code: str, verdict: str) -> None:
    replies = [httpx.Response(status, json=error(kind, message, code)) for _ in range(2)]
    policy = Server(kind, *replies).policy()
    told, found = "", ""
    try:
        found = (await turn(policy)).finish_reason
    except (ConfigError, PolicyFault) as raised:
        told, found = str(raised), "config" if isinstance(raised, ConfigError) else raised.at
    assert found == verdict
    assert KEY not in told


FAILED_RESPONSES: list[tuple[str, str]] = [
    ("server_error", "server"),
    ("rate_limit_exceeded", "server"),
    ("data_residency_mismatch", "server"),
    ("bio_policy", "content_filter"),
]


@pytest.mark.parametrize(("code", "verdict"), FAILED_RESPONSES)
async def test_a_response_that_failed(code: str, verdict: str) -> None:
    failed = reply("responses", status="failed", output=[], error={"code": code, "message": "It failed."})
    policy, found = Server("responses", failed, failed).policy(), ""
    try:
        found = (await turn(policy)).finish_reason
    except PolicyFault as raised:
        found = raised.at
    assert found == verdict


@pytest.mark.parametrize("kind", KINDS)
async def test_arguments_that_cannot_be_read_are_the_models(kind: str) -> None:
    broken = reply(kind, calls=[("c1x", "add", '{"a": 1')])
    policy = Server(kind, broken).policy()
    action = await turn(policy)
    assert action.tool_calls[0].error is not None
    # The conversation goes on: what the server cannot read is replaced in the request.
    result = Message("tool", action.tool_calls[0].error, tool_call_id="c1x", name="add")
    again = await turn(policy, (*QUESTION, action.to_message(), result))
    assert again.tool_calls[0].arguments == {"a": 1, "b": 2}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_key_goes_into_the_apis_own_header(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(kind)
    policy = resolve(f"{kind}:bot", base_url="http://server/v1")
    assert isinstance(policy, ServerPolicy)
    async with policy:
        lane = policy._lanes.get()
        headers = lane.client.headers
        assert headers.get("x-api-key" if kind == "anthropic" else "authorization", "").endswith(KEY)
        assert ("authorization" in headers) == (kind != "anthropic")
    assert KEY not in repr(policy)
    assert server.requests == []


@pytest.mark.parametrize("kind", ["responses", "anthropic"])
def test_an_option_that_an_api_has_no_field_for_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"{kind}:NAME has no option return_token_ids"):
        resolve(f"{kind}:bot", chat={"return_token_ids": True})


@pytest.mark.parametrize(
    ("kind", "base_url", "url"),
    [
        ("responses", "http://s:8000/v1", "http://s:8000/v1/responses"),
        ("responses", "http://s:8000/v1/responses/", "http://s:8000/v1/responses"),
        ("anthropic", "http://s", "http://s/v1/messages"),
        ("anthropic", "http://s/v1/", "http://s/v1/messages"),
        ("anthropic", "http://s/api/v1/messages", "http://s/api/v1/messages"),
    ],
)
def test_a_base_url_may_hold_more_or_less_of_the_path(kind: str, base_url: str, url: str) -> None:
    policy = resolve(f"{kind}:bot", base_url=base_url)
    assert url in repr(policy)


def test_each_maker_has_its_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://gateway:9")
    assert "https://api.openai.com/v1/responses" in repr(resolve("responses:m"))
    assert "http://gateway:9/v1/messages" in repr(resolve("anthropic:m"))


@pytest.mark.parametrize("kind", KINDS)
async def test_further_fields_are_sent_and_others_left_out(kind: str) -> None:
    server = Server(kind)
    await turn(server.policy(extra_body={"metadata": {"run": "7"}}, omit=("top_p", "tools")), top_p=0.5)
    body = server.bodies[0]
    assert body["metadata"] == {"run": "7"}
    assert not body.keys() & {"top_p", "tools"}
