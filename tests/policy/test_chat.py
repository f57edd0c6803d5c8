"""ChatPolicy against a real server process over sockets: fields, tokens, retries, refusals, set-up."""

import asyncio
import json
import logging
from typing import Any

import pytest

from agentrl.errors import ConfigError, PolicyFault
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.base import SamplingParams
from agentrl.policy.chat import ChatOptions, ChatPolicy
from tests.policy.chat_replies import error
from tests.policy.chat_server import KEY, ChatServer, completion
from tests.policy.one_turn import QUESTION, TOOLS, ask

# Fields.


async def test_a_tool_call_and_its_result_go_there_and_back(server: ChatServer) -> None:
    first = await ask(server, QUESTION, TOOLS)
    assert first.tool_calls == (ToolCall("add", {"a": 1, "b": 2}, "call_abc"),)
    assert first.finish_reason == "tool_calls"
    assert first.usage == {"prompt_tokens": 11, "completion_tokens": 3}
    second = await ask(server, (*QUESTION, first.to_message(), Message("tool", "3", tool_call_id="call_abc")), TOOLS)
    assert (second.text, second.finish_reason) == ("3", "stop")
    sent = server.bodies[1]["messages"]
    assert sent[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1, "b": 2}'}
    assert sent[2] == {"role": "tool", "content": "3", "tool_call_id": "call_abc"}
    request = server.log()["requests"][0]
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == f"Bearer {KEY}"


async def test_only_what_was_asked_for_is_sent(server: ChatServer) -> None:
    await ask(server, sampling=SamplingParams(max_tokens=5), tool_choice="required", parallel_tool_calls=False)
    assert set(server.bodies[0]) == {"model", "messages", "temperature", "top_p", "max_tokens"}
    assert server.bodies[0]["top_p"] == 1.0  # a server would take the folder's
    await ask(
        server,
        tools=TOOLS,
        sampling=SamplingParams(0.5, top_p=0.9, top_k=4, max_tokens=5, stop=("END",), seed=3),
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens_field="max_completion_tokens",
        extra_body={"temperature": None, "chat_template_kwargs": {"enable_thinking": False}},
    )
    assert server.bodies[1] == {
        "model": "bot",
        "messages": [{"role": "user", "content": "1+2"}],
        "tools": list(TOOLS),
        "top_p": 0.9,
        "top_k": 4,
        "max_completion_tokens": 5,
        "stop": ["END"],
        "seed": 3,
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "chat_template_kwargs": {"enable_thinking": False},
    }


async def test_greedy_is_sent_as_temperature_zero(server: ChatServer) -> None:
    await ask(server, sampling=SamplingParams(temperature=0.0))
    assert server.bodies[0]["temperature"] == 0.0


async def test_parallel_calls_and_malformed_arguments_are_kept(server: ChatServer) -> None:
    calls = [
        {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"a": 1'}},
        {"id": "b", "type": "function", "function": {"name": "add", "arguments": "[1]"}},
        {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}},
        {"id": "d", "type": "function", "function": {"name": "list_all", "arguments": ""}},
    ]
    server.script({"json": completion(None, calls)})
    action = await ask(server, tools=TOOLS)
    assert [call.id for call in action.tool_calls] == ["a", "b", "call_2", "d"]
    assert "not valid JSON" in (action.tool_calls[0].error or "")
    assert "must be a JSON object, got list" in (action.tool_calls[1].error or "")
    assert [(c.arguments, c.error) for c in action.tool_calls[2:]] == [({"a": 1}, None), ({}, None)]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_thinking_is_read_and_sent_back_under_the_servers_own_name(server: ChatServer, name: str) -> None:
    server.script({"json": completion("3", message={name: "one and two"})})
    async with ChatPolicy("bot", base_url=server.url) as policy:
        action = await policy.act(QUESTION, (), episode_id="e")
        await policy.act((*QUESTION, action.to_message(), *QUESTION), (), episode_id="e")
    assert (action.text, action.reasoning) == ("3", "one and two")
    assert server.bodies[1]["messages"][1] == {"role": "assistant", "content": "3", name: "one and two"}
    await ask(server, (*QUESTION, action.to_message(), *QUESTION), send_reasoning=False)
    assert server.bodies[2]["messages"][1] == {"role": "assistant", "content": "3"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("eos_token", "stop"),
        ("MAX_TOKENS", "length"),
    ],
)
async def test_finish_reasons(server: ChatServer, given: Any, expected: str) -> None:
    server.script({"json": completion("x", choice={"finish_reason": given})})
    assert (await ask(server)).finish_reason == expected


async def test_calls_under_finish_reason_stop_are_calls(server: ChatServer) -> None:
    calls = [{"id": "a", "type": "function", "function": {"name": "add", "arguments": "{}"}}]
    server.script({"json": completion("", calls, choice={"finish_reason": "stop"})})
    assert (await ask(server, tools=TOOLS)).finish_reason == "tool_calls"


async def test_content_parts_refusals_and_cached_tokens(server: ChatServer) -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}}
    server.script(
        {"json": completion(None, message={"content": parts}, top={"usage": usage})},
        {"json": completion(None, message={"refusal": "no"}, top={"usage": None})},
    )
    first, second = await ask(server), await ask(server)
    assert (first.text, first.usage) == ("ab", {"prompt_tokens": 9, "completion_tokens": 2, "cached_tokens": 8})
    assert (second.text, second.usage) == ("no", None)


async def test_text_that_utf8_cannot_hold_is_sent(server: ChatServer) -> None:
    server.script({"json": completion("ok \ud83d")})
    action = await ask(server, (Message("user", "lone \ud800 surrogate, é, 漢"),))
    assert action.text == "ok \ud83d"
    assert server.bodies[0]["messages"][0]["content"] == "lone \ufffd surrogate, é, 漢"


# Tokens.

TOKENS = {"token_ids": [5, 6, 2], "logprobs": {"content": [{"token": "x", "logprob": -0.5}] * 3}}


async def test_token_ids_and_logprobs_where_the_server_gives_them(server: ChatServer) -> None:
    server.script({"json": completion("x", choice=TOKENS, top={"prompt_token_ids": [1, 2, 3]})})
    action = await ask(server, return_token_ids=True)
    assert (action.prompt_ids, action.token_ids, action.logprobs) == ((1, 2, 3), (5, 6, 2), (-0.5,) * 3)
    assert (server.bodies[0]["return_token_ids"], server.bodies[0]["logprobs"]) == (True, True)


@pytest.mark.parametrize("options", [{"return_token_ids": True}, {"extra_body": {"logprobs": True}}])
async def test_where_logprobs_are_asked_for_nothing_is_left_to_the_models_folder(
    server: ChatServer, options: dict[str, Any]
) -> None:
    server.script({"json": completion("x", choice=TOKENS)}, {"json": completion("x", choice=TOKENS)})
    await ask(server, **options)
    sent = {name: server.bodies[0][name] for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
    assert sent == {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert (server.bodies[0]["presence_penalty"], server.bodies[0]["frequency_penalty"]) == (0.0, 0.0)
    await ask(server, sampling=SamplingParams(top_k=5), **options)
    assert server.bodies[1]["top_k"] == 5


@pytest.mark.parametrize(
    "extra",
    [{"top_k": 1}, {"temperature": None}, {"repetition_penalty": 1.1}, {"logit_bias": {"5": 10}}, {"min_p": 0.1}],
)
async def test_logprobs_are_not_taken_where_a_field_changes_the_distribution(
    server: ChatServer, extra: dict[str, Any]
) -> None:
    server.script({"json": completion("x", choice=TOKENS)}, {"json": completion("x", choice=TOKENS)})
    assert (await ask(server, return_token_ids=True, extra_body=extra)).logprobs is None
    neutral = await ask(server, return_token_ids=True, extra_body={"top_k": -1, "chat_template_kwargs": {}})
    assert neutral.logprobs == (-0.5,) * 3


async def test_logprobs_of_another_distribution_are_not_taken(server: ChatServer) -> None:
    server.script({"json": completion("x", choice=TOKENS)})
    action = await ask(server, sampling=SamplingParams(temperature=0.7))
    assert (action.token_ids, action.logprobs) == ((5, 6, 2), None)


async def test_logprobs_that_do_not_match_the_ids_are_not_taken(server: ChatServer) -> None:
    server.script({"json": completion("x", choice={**TOKENS, "token_ids": [5, 6]})})
    assert (await ask(server)).logprobs is None


async def test_ids_written_as_token_names(server: ChatServer) -> None:
    content = [{"token": "token_id:7", "logprob": -1.0}, {"token": "token_id:2", "logprob": -2.0}]
    server.script({"json": completion("x", choice={"logprobs": {"content": content}})})
    action = await ask(server)
    assert (action.token_ids, action.logprobs) == ((7, 2), (-1.0, -2.0))


# Retries.

BROKEN = [
    {"status": 500, "json": error("boom")},
    {"status": 503, "text": "<html>busy</html>"},
    {"status": 429, "json": error("slow down"), "headers": {"Retry-After": "0"}},
    {"status": 408, "text": ""},
    {"drop": "before"},
    {"drop": "within"},
    {"text": "not json"},
    {"text": "[1, 2]"},
    {"json": {"choices": []}},
    {"json": {"choices": [{"message": None}]}},
    {"json": {"choices": [{"message": {"content": 5}}]}},
    {"json": {"error": {"message": "upstream is down", "code": 502}}},
    {"json": {"error": "upstream is down"}},
]


@pytest.mark.parametrize("entry", BROKEN, ids=lambda entry: json.dumps(entry)[:40])
async def test_a_passing_failure_is_tried_again(server: ChatServer, entry: dict[str, Any]) -> None:
    server.script(entry, {"json": completion("fine")})
    assert (await ask(server)).text == "fine"
    assert len(server.bodies) == 2


async def test_a_slow_answer_is_tried_again(server: ChatServer) -> None:
    server.script({"delay_s": 20.0, "json": completion("late")}, *[{"json": completion("in time")}] * 6)
    assert (await ask(server, timeout_s=0.4)).text == "in time"


async def test_retry_after_is_honoured(server: ChatServer) -> None:
    server.script({"status": 429, "json": error("slow down"), "headers": {"Retry-After": "0.4"}})
    assert (await ask(server, tools=TOOLS)).tool_calls
    first, second = (request["at"] for request in server.log()["requests"])
    assert second - first >= 0.4


async def test_retry_after_holds_for_the_others_too(server: ChatServer, caplog: pytest.LogCaptureFixture) -> None:
    server.script({"status": 429, "json": error("slow down"), "headers": {"retry-after-ms": "500"}})
    with caplog.at_level(logging.INFO, logger="agentrl"):
        async with ChatPolicy("bot", base_url=server.url) as policy:
            first = asyncio.create_task(policy.act(QUESTION, (), episode_id="a"))
            while "try 1 failed" not in caplog.text:
                await asyncio.sleep(0.01)
            await asyncio.gather(first, policy.act(QUESTION, (), episode_id="b"))
    times = [request["at"] for request in server.log()["requests"]]
    assert len(times) == 3
    assert min(times[1:]) - times[0] >= 0.5


async def test_a_pause_beyond_all_patience_is_a_fault_at_once(server: ChatServer) -> None:
    server.script({"status": 429, "json": error("daily limit"), "headers": {"Retry-After": "86400"}})
    with pytest.raises(PolicyFault, match=r"daily limit \(asks to wait 86400 s\)"):
        await ask(server)


async def test_spent_retries_are_a_fault_that_says_what_to_do(server: ChatServer) -> None:
    server.script(*[{"status": 503, "json": error("overloaded")}] * 3)
    with pytest.raises(PolicyFault, match=r"in 3 tries .* 503 overloaded\. Check that the server is up.*max_retries"):
        await ask(server, max_retries=2)
    assert len(server.bodies) == 3


async def test_no_server_at_all_is_a_fault(server: ChatServer) -> None:
    expected = r"http://127.0.0.1:9/v1/chat/completions gave no completion in 2 tries"
    async with ChatPolicy("bot", base_url="http://127.0.0.1:9/v1", max_retries=1) as policy:
        with pytest.raises(PolicyFault, match=expected):
            await policy.act(QUESTION, (), episode_id="e")


async def test_a_server_killed_and_started_again_costs_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("agentrl.policy.remote.options._FIRST_BACKOFF_S", 0.1)
    server = ChatServer()
    server.start()

    async def play() -> list[Action]:
        async with ChatPolicy("bot", base_url=server.url) as policy:
            await policy.act(QUESTION, (), episode_id="warm")
            await asyncio.to_thread(server.script, *[{"delay_s": 5.0}] * 8)
            turns = [asyncio.create_task(policy.act(QUESTION, (), episode_id=f"e{i}")) for i in range(8)]
            await asyncio.sleep(0.3)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(server.start)
            return await asyncio.gather(*turns)

    try:
        assert [len(action.tool_calls) for action in await play()] == [1] * 8
    finally:
        server.kill()


# Refusals.


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            {"status": 401, "json": error(f"Incorrect API key provided: {KEY}")},
            "OPENAI_API_KEY is set, but the server does not accept it",
        ),
        ({"status": 404, "json": {"detail": "Not Found"}}, "Check the model name 'bot', and base_url"),
        ({"status": 302, "text": "", "headers": {"Location": "http://elsewhere.invalid/"}}, "base_url"),
        ({"status": 400, "json": error("unknown field top_k")}, r"unknown field top_k.*omit=\['FIELD'\]"),
        ({"status": 429, "json": error("pay first", "insufficient_quota")}, "no quota left"),
        ({"status": 422, "json": {"object": "error", "message": "bad tools", "code": 422}}, "bad tools"),
    ],
)
async def test_what_cannot_work_is_said_at_once(server: ChatServer, entry: dict[str, Any], words: str) -> None:
    server.script(entry)
    with pytest.raises(ConfigError, match=words) as caught:
        await ask(server)
    assert KEY not in str(caught.value)
    assert len(server.bodies) == 1


async def test_a_missing_key_is_named(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server.script({"status": 401, "json": error("no key")})
    with pytest.raises(ConfigError, match="MY_KEY is not set"):
        await ask(server, api_key_env="MY_KEY")
    assert "Authorization" not in server.log()["requests"][0]["headers"]


async def test_one_refused_conversation_among_others_is_a_fault_of_its_own(server: ChatServer) -> None:
    server.script({"json": completion("fine")}, {"status": 400, "json": error("cannot render this")})
    async with ChatPolicy("bot", base_url=server.url) as policy:
        await policy.act(QUESTION, (), episode_id="a")
        with pytest.raises(PolicyFault, match=r"cannot render this.*The server accepted other conversations"):
            await policy.act(QUESTION, (), episode_id="b")


TOO_LONG = [
    {"status": 400, "json": error("This is too much", "context_length_exceeded")},
    {
        "status": 400,
        "json": {
            "object": "error",
            "message": "The input (90 tokens) is longer than the model's context length (80 tokens).",
        },
    },
    {"status": 400, "json": error("the request exceeds the available context size", "exceed_context_size_error")},
]


@pytest.mark.parametrize("entry", TOO_LONG)
async def test_a_conversation_too_long_is_cut_off_not_a_crash(
    server: ChatServer, entry: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    server.script(entry)
    with caplog.at_level(logging.WARNING):
        action = await ask(server)
    assert (action.text, action.tool_calls, action.finish_reason) == ("", (), "length")
    assert "context is too short" in caplog.text


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 100 tokens. However, you requested 4170 tokens "
        "(74 in the messages, 4096 in the completion).",
        "You passed 74 input tokens and requested 4096 output tokens. However, the model's context length is only "
        "100 tokens, resulting in a maximum input length of 0 tokens.",
    ],
)
async def test_a_prompt_that_fits_gets_what_room_is_left(server: ChatServer, words: str) -> None:
    server.script({"status": 400, "json": error(words)}, {"json": completion("short")})
    assert (await ask(server)).text == "short"
    assert [body["max_tokens"] for body in server.bodies] == [4096, 26]


# Set-up.


@pytest.mark.parametrize("base_url", ["localhost:8000/v1", "ftp://host/v1", "http://", "http://h:port/v1"])
def test_an_address_that_is_none_is_refused(base_url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        ChatPolicy("bot", base_url=base_url)


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("http://h/v1", "http://h/v1/chat/completions"),
        ("http://h/v1/", "http://h/v1/chat/completions"),
        ("http://h/v1/chat/completions", "http://h/v1/chat/completions"),
        ("https://h/deployments/x?api-version=1", "https://h/deployments/x/chat/completions?api-version=1"),
    ],
)
def test_addresses_as_people_write_them(base_url: str, url: str) -> None:
    assert str(ChatPolicy("bot", base_url=base_url)._url) == url


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_concurrency 1 or more"):
        ChatOptions(max_concurrency=0)
    with pytest.raises(ConfigError, match="requests_per_minute"):
        ChatPolicy("bot", requests_per_minute=0)
    with pytest.raises(TypeError, match="timeout"):
        ChatPolicy("bot", timeout=3)
