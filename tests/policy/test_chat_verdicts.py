"""Whose failure is it? What a chat server can answer, one row a cause and dialect, with the verdict on each.

Every row is asked twice: in a conversation in which no model has spoken yet, and in one that holds a model's words.
The server of these tests gives trouble to conversations with the word "poison" and answers all others.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest

from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import ConfigError, PolicyFault
from agentrl.messages import Message, ToolCall
from agentrl.policy.base import SamplingParams
from agentrl.policy.chat import ChatPolicy
from agentrl.rollout.episode import run_episode
from agentrl.tool_schema import tool
from agentrl.trajectory import Ending, Task
from tests.policy.chat_replies import (
    ERRORS,
    FAULT,
    GROQ,
    SERVED,
    called,
    error,
    flat,
    response,
    turn,
    usage,
    without,
)
from tests.policy.chat_server import completion
from tests.policy.conftest import TOOL

FIRST = (Message("user", "poison"),)
LATER = (
    Message("user", "1+2"),
    Message("assistant", "poison", (ToolCall("add", {"a": 1, "b": 2}, "call_abc"),)),
    Message("tool", "3", tool_call_id="call_abc", name="add"),
)
FINE = (Message("user", "1+2"),)

Reply = httpx.Response | Exception
Handler = Callable[[Mapping[str, Any]], Reply]


def policy_of(handle: Handler, **options: Any) -> ChatPolicy:
    """A policy whose server is a function."""

    def answer(request: httpx.Request) -> httpx.Response:
        reply = handle(json.loads(request.content))
        if isinstance(reply, Exception):
            raise reply
        return reply

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return ChatPolicy("bot", base_url="http://server/v1", client=client, **{"max_retries": 1, **options})


def fine(body: Mapping[str, Any]) -> httpx.Response:
    return httpx.Response(200, json=completion("42"))


def poisoned(reply: Callable[[], Reply]) -> Handler:
    return lambda body: reply() if "poison" in json.dumps(body["messages"]) else fine(body)


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.policy.remote.options._FIRST_BACKOFF_S", 0.0)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-key-of-these-tests")


async def verdict(policy: ChatPolicy, messages: tuple[Message, ...]) -> str:
    """What becomes of the turn, as a word."""
    try:
        action = await policy.act(messages, [TOOL], episode_id="e", sampling=SamplingParams(max_tokens=40))
    except ConfigError:
        return "config"
    except PolicyFault as fault:
        return f"fault of the {fault.at}" + ("" if fault.answers is None else f", answers={fault.answers}")
    if action.tool_calls and action.tool_calls[0].error:
        return "unreadable call"
    return action.finish_reason if action.finish_reason not in ("stop", "tool_calls") else "turn"


@pytest.mark.parametrize(("status", "body", "first", "later"), [row[1:] for row in ERRORS], ids=[r[0] for r in ERRORS])
async def test_an_error_is_the_models_or_the_servers(status: int, body: Any, first: str, later: str) -> None:
    policy = policy_of(poisoned(lambda: response(status, body)))
    assert await verdict(policy, FINE) == "turn"
    assert await verdict(policy, FIRST) == first
    assert await verdict(policy, LATER) == later


UNANSWERED = [row for row in ERRORS if row[3] == FAULT and row[4] in ("refused", "content_filter")]


@pytest.mark.parametrize(("status", "body"), [row[1:3] for row in UNANSWERED], ids=[row[0] for row in UNANSWERED])
async def test_a_server_that_never_answered_is_set_up_wrongly(status: int, body: Any) -> None:
    assert await verdict(policy_of(poisoned(lambda: response(status, body))), FIRST) == "config"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, error("no"), "fault of the server, answers=False"),
        (413, "<html>too large</html>", "fault of the server, answers=False"),
        (422, error("no"), "fault of the server, answers=False"),
        (403, "<html>Access denied</html>", "config"),
    ],
)
async def test_a_server_that_refuses_everything_is_not_the_models_doing(status: int, body: Any, expected: str) -> None:
    replies = [fine({})]
    policy = policy_of(lambda _: replies.pop() if replies else response(status, body))
    assert await verdict(policy, FINE) == "turn"
    assert await verdict(policy, LATER) == expected


async def test_a_server_that_is_down_is_asked_by_a_control_too() -> None:
    asked: list[str] = []

    def down(body: Mapping[str, Any]) -> httpx.Response:
        asked.append(body["messages"][0]["content"])
        return response(500, "")

    assert await verdict(policy_of(down), LATER) == "fault of the server, answers=False"
    assert asked == ["1+2", "1+2", "Say hello."]


# (dialect and cause, body of an answer with status 200, verdict)
TURNS: list[tuple[str, Any, str]] = [
    *[
        (f"{who}: {finish}", turn(finish), "turn")
        for who, finish in [
            ("openai", "stop"),
            ("openai", "tool_calls"),
            ("openai", "function_call"),
            ("together", "eos"),
            ("tgi", "eos_token"),
            ("tgi", "stop_sequence"),
            ("anthropic", "end_turn"),
            ("anthropic", "tool_use"),
            ("gemini", "STOP"),
            ("cohere", "COMPLETE"),
        ]
    ],
    *[
        (f"{who}: {finish}", turn(finish), "length")
        for who, finish in [
            ("openai", "length"),
            ("mistral", "model_length"),
            ("anthropic", "max_tokens"),
            ("zai", "model_context_window_exceeded"),
            ("vllm", "repetition"),
        ]
    ],
    *[
        (f"{who}: {finish}", turn(finish), "content_filter")
        for who, finish in [
            ("openai", "content_filter"),
            ("zai", "sensitive"),
            ("anthropic", "refusal"),
            ("gemini", "SAFETY"),
            ("gemini", "content_filter: RECITATION"),
            ("gemini", "PROHIBITED_CONTENT"),
        ]
    ],
    ("openai: a filter, no text", turn("content_filter", "", top=usage(0)), "content_filter"),
    ("openrouter: a native filter", turn(choice={"native_finish_reason": "SAFETY"}), "content_filter"),
    *[
        (f"gemini: {finish}", turn(finish, None, top=usage(0)), "unreadable call")
        for finish in (
            "MALFORMED_FUNCTION_CALL",
            "function_call_filter: MALFORMED_FUNCTION_CALL",
            "function_call_filter: UNEXPECTED_TOOL_CALL",
        )
    ],
    (
        "openrouter: a native bad call",
        turn("stop", None, choice={"native_finish_reason": "MALFORMED_FUNCTION_CALL"}),
        "unreadable call",
    ),
    ("any: a call that is not shown", turn("tool_calls", None), "unreadable call"),
    *[
        (f"{who}: {finish}", turn(finish), FAULT)
        for who, finish in [
            ("openrouter", "error"),
            ("vllm", "abort"),
            ("zai", "network_error"),
            ("deepseek", "insufficient_system_resource"),
            ("gemini", "OTHER"),
            ("ollama", "load"),
            ("any", "something new"),
            ("any", ""),
            ("any", None),
            ("any", 7),
        ]
    ],
    ("any: no finish_reason", without("stop"), FAULT),
    ("openrouter: a native failure", turn("stop", None, choice={"native_finish_reason": "network_error"}), FAULT),
    (
        "openrouter: an error in the choice",
        turn("error", "", choice={"error": {"code": 502, "message": "upstream died"}}),
        FAULT,
    ),
    (
        "openrouter: a refusal in the choice",
        turn("stop", "half an ans", choice={"error": {"code": 400, "message": "provider error"}}),
        FAULT,
    ),
    ("openrouter: a bad call in the choice", turn("error", "", choice={"error": GROQ["error"]}), "unreadable call"),
    ("openrouter: an error for an answer", {"error": {"code": 502, "message": "upstream died"}}, FAULT),
    (
        "vllm: a flat error for an answer",
        flat("HarmonyError: unexpected tokens remaining in message header"),
        "unreadable call",
    ),
    ("any: a turn of no tokens", turn("stop", "", top=usage(0)), FAULT),
    ("any: a turn of no tokens, null", turn("stop", None, top=usage(0)), FAULT),
    ("any: a silent turn of one token", turn("stop", "", top=usage(1)), "turn"),
    ("any: a silent turn, no usage", turn("stop", "", top={"usage": None}), "turn"),
    ("any: no tokens counted, but text", turn("stop", "42", top=usage(0)), "turn"),
    ("any: no tokens counted, but thinking", turn("stop", "", message={"reasoning": "hm"}, top=usage(0)), "turn"),
    ("any: cut off before the first token", turn("length", "", top=usage(0)), "length"),
    ("any: no usage", {"choices": [{"message": {"content": "42"}, "finish_reason": "stop"}]}, "turn"),
    # The arguments of a call are the model's.
    ("any: deep arguments", called('{"a":' + "[" * 200_000), "unreadable call"),
    ("any: arguments of 900 levels", called('{"a":' * 900 + "1" + "}" * 900), "unreadable call"),
    ("any: arguments cut off", called('{"a": '), "unreadable call"),
    ("any: arguments with NaN", called('{"a": NaN}'), "unreadable call"),
    ("any: arguments with 1e999", called('{"a": 1e999}'), "unreadable call"),
    ("any: a name twice", called('{"a": 1, "a": 2}'), "unreadable call"),
    ("any: a number of 5000 digits", called('{"a": ' + "1" * 5000 + "}"), "unreadable call"),
    (
        "openai: a call in the old form",
        turn("function_call", None, message={"function_call": {"name": "add", "arguments": '{"a": NaN}'}}),
        "unreadable call",
    ),
    ("any: a list for arguments", called("[1]"), "unreadable call"),
    ("ollama: arguments as an object", called({"a": 1}), "turn"),
    # What is no completion.
    ("any: cut off", '{"choices": [', FAULT),
    ("any: a page", "<html>login</html>", FAULT),
    ("any: a deep body", "[" * 200_000, FAULT),
    ("any: a deep message", {"choices": [{"message": {"content": "DEEP"}, "finish_reason": "stop"}]}, FAULT),
    ("any: no choices", {"choices": []}, FAULT),
    ("any: a surrogate", '{"choices": [{"message": {"content": "\\ud800 42"}, "finish_reason": "stop"}]}', "turn"),
]


@pytest.mark.parametrize(("body", "expected"), [row[1:] for row in TURNS], ids=[row[0] for row in TURNS])
async def test_an_answer_is_a_turn_or_a_failure_of_the_server(body: Any, expected: str) -> None:
    text = body if isinstance(body, str) else json.dumps(body).replace('"DEEP"', "[" * 900 + "]" * 900)
    policy = policy_of(poisoned(lambda: response(200, text)))
    assert await verdict(policy, FIRST) == expected
    assert await verdict(policy, LATER) == (SERVED if expected == FAULT else expected)


def bomb() -> httpx.Response:
    content = gzip.compress(b" " * (2 << 20), 1)
    return httpx.Response(200, content=content, headers={"Content-Encoding": "gzip"})


@pytest.mark.parametrize(
    ("reply", "who"),
    [
        (lambda: httpx.ConnectError("refused"), "network"),
        (lambda: httpx.ReadError("reset"), "network"),
        (lambda: httpx.RemoteProtocolError("closed within the answer"), "network"),
        (lambda: httpx.ReadTimeout("slow"), "server"),
        (lambda: httpx.Response(200, content=b"\x1f\x8bno", headers={"Content-Encoding": "gzip"}), "network"),
        (bomb, "server"),
    ],
    ids=["connect", "reset", "cut off", "slow", "bad gzip", "too large"],
)
async def test_a_connection_that_fails_is_never_the_models(reply: Callable[[], Reply], who: str) -> None:
    policy = policy_of(poisoned(reply), max_reply_bytes=1 << 20)
    assert await verdict(policy, FIRST) == f"fault of the {who}"
    assert await verdict(policy, LATER) == f"fault of the {who}, answers=True"


async def test_the_model_reads_why_its_call_could_not_be_read() -> None:
    policy = policy_of(poisoned(lambda: response(400, GROQ)))
    action = await policy.act(FIRST, [TOOL], episode_id="e")
    assert action.text == '<function=add>{"a": 1'
    (call,) = action.tool_calls
    assert (call.name, call.arguments) == ("add", {})
    assert "the server could not read it: Failed to call a function" in (call.error or "")


async def test_no_key_is_in_what_the_model_reads_or_says() -> None:
    key = "sk-a-key-of-these-tests"
    echo = error(f"Failed to parse tool calls: {key}", failed_generation=f"{key} <function=add>")
    action = await policy_of(poisoned(lambda: response(400, echo))).act(FIRST, [TOOL], episode_id="e")
    assert key not in repr(action)
    said = called(json.dumps({"a": [f"Bearer {key}"]}))
    said["choices"][0]["message"] |= {"content": f"I see {key}", "reasoning": key}
    action = await policy_of(poisoned(lambda: response(200, said))).act(FIRST, [TOOL], episode_id="e")
    assert (action.text, action.reasoning) == ("I see REDACTED", "REDACTED")
    assert action.tool_calls[0].arguments == {"a": ["Bearer REDACTED"]}


async def test_a_word_for_a_key_is_left_in_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    policy = policy_of(lambda body: response(200, turn(content="The box is EMPTY.")))
    assert (await policy.act(FIRST, (), episode_id="e")).text == "The box is EMPTY."


# In an episode.


class Adder(ToolEnv):
    """Wants the answer 42."""

    limits = Limits(max_turns=4)
    tasks = Tasks(lambda: {"train": [Task(str(number), "train", {"number": number}) for number in range(10)]})

    def start(self, task: Task) -> str:
        return f"task {task.data['number']}"

    @tool
    def add(self, a: int, b: int) -> int:
        """Add.

        Args:
            a: the first.
            b: the second.
        """
        return a + b

    def score(self, answer: str | None) -> float:
        return float(answer == "42")


async def play(handle: Handler) -> Any:
    env = Adder()
    return await run_episode(env, policy_of(handle), env.tasks.split("train")[0], 0)


async def test_a_call_that_the_server_cannot_read_is_answered_and_the_episode_goes_on() -> None:
    replies = [fine({}), response(400, GROQ)]
    trajectory = await play(lambda body: replies.pop())
    assert trajectory.success
    assert trajectory.turns[0].next_observation[0].content.startswith("Error: the call could not be read: the server")


@pytest.mark.parametrize(
    ("reply", "ending"),
    [
        (lambda: response(200, turn("content_filter")), Ending("error", "content_filter")),
        (lambda: response(400, error("no", "content_filter")), Ending("error", "content_filter")),
        (lambda: response(400, error("this history is not accepted")), Ending("error", "refused")),
    ],
    ids=["a filter", "a filter's error", "a refusal"],
)
async def test_a_turn_that_is_withheld_ends_the_episode_as_a_failure(
    reply: Callable[[], Reply], ending: Ending
) -> None:
    poison = called('{"a": 1, "b": 2}')
    poison["choices"][0]["message"]["content"] = "poison"

    def handle(body: Mapping[str, Any]) -> Reply:
        if body["messages"][0]["content"] != "task 0":
            return fine(body)
        return reply() if "poison" in json.dumps(body) else response(200, poison)

    trajectory = await play(handle)
    assert (trajectory.ending, trajectory.success) == (ending, False)


async def test_a_model_that_poisons_its_losing_episodes_keeps_its_success() -> None:
    """It knows three of ten answers and makes every other conversation one that its server refuses."""
    bad_name, bad_id = "\ud800 look up!" * 20, "x" * 300
    calls = [{"id": bad_id, "type": "function", "function": {"name": bad_name, "arguments": '{"kind": "\\ud800"}'}}] * 2

    def model(body: Mapping[str, Any]) -> httpx.Response:
        number = int(body["messages"][0]["content"].rpartition(" ")[2])
        if number < 3:
            return fine(body)
        if "poison" in json.dumps(body):
            return response(400, error("Invalid content"))
        return response(200, completion("" if number % 2 else "poison", calls))

    def handle(body: Mapping[str, Any]) -> httpx.Response:
        return fine(body) if body["messages"][0]["content"] == "Say hello." else model(body)

    env, policy = Adder(), policy_of(handle)
    played = [await run_episode(env, policy, task, 0) for task in env.tasks.split("train")]
    assert [t.ending.kind for t in played].count("fault") == 0
    assert sum(t.success for t in played) == 3
