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


def error(message: str, code: Any = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": code, **more}}


def flat(message: str, kind: str = "BadRequestError", code: int = 400) -> dict[str, Any]:
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


FAULT, SERVED, BUSY = "fault of the server", "fault of the server, answers=True", "fault of the server, answers=False"
AZURE_SAYS = (
    "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify "
    "your prompt and retry."
)
AZURE_INNER = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}
GROQ_SAYS = "Failed to call a function. Please adjust your prompt. See 'failed_generation' for more details."
GROQ = error(GROQ_SAYS, "tool_use_failed", failed_generation='<function=add>{"a": 1')
OPENROUTER_RAW = json.dumps(error("This is too long.", "context_length_exceeded"))

# (dialect and cause, status, body, verdict where no model has spoken, verdict where one has)
ERRORS: list[tuple[str, int, Any, str, str]] = [
    # The model's call, which the parser of the server cannot read.
    ("groq: tool_use_failed", 400, GROQ, "unreadable call", "unreadable call"),
    (
        "groq: schema",
        400,
        error("tool call validation failed: parameters for tool add did not match schema", "tool_use_failed"),
        "unreadable call",
        "unreadable call",
    ),
    (
        "litellm before groq",
        400,
        error(f"litellm.BadRequestError: GroqException - {json.dumps(GROQ)}", "400"),
        "unreadable call",
        "unreadable call",
    ),
    ("vllm: parser", 400, flat("Failed to parse tool calls: Expecting value"), "unreadable call", "unreadable call"),
    ("vllm: could not parse", 500, flat("Could not parse tool call"), "unreadable call", "unreadable call"),
    (
        "vllm: harmony header",
        500,
        error('unexpected tokens remaining in message header: Some("to=functions.add")', 500),
        "unreadable call",
        "unreadable call",
    ),
    (
        "vllm: harmony token",
        400,
        error("Unexpected token 12606 while expecting start token 200006", 400),
        "unreadable call",
        "unreadable call",
    ),
    (
        "sglang: message",
        400,
        flat("Failed to parse fc related info to json format!"),
        "unreadable call",
        "unreadable call",
    ),
    (
        "sglang: type",
        400,
        flat("400", "Failed to parse fc related info to json format!"),
        "unreadable call",
        "unreadable call",
    ),
    (
        "llama.cpp: input",
        500,
        error("Failed to parse input at pos 184: <tool_call>{", 500, type="server_error"),
        "unreadable call",
        "unreadable call",
    ),
    (
        "llama.cpp: diff",
        500,
        error("Invalid diff: now finding less tool calls!", 500, type="server_error"),
        "unreadable call",
        "unreadable call",
    ),
    (
        "ollama",
        500,
        error("error parsing tool call: raw='{\"a\": 1]', err=invalid character ']' after object key:value pair"),
        "unreadable call",
        "unreadable call",
    ),
    (
        "ollama: native",
        500,
        {"error": "error parsing tool call: raw='{', err=EOF"},
        "unreadable call",
        "unreadable call",
    ),
    (
        "any: cannot be parsed",
        500,
        error("tool call could not be parsed: Unterminated string", type="server_error"),
        "unreadable call",
        "unreadable call",
    ),
    ("any: invalid tool call", 400, error("Invalid tool call: no tool 'ad'"), "unreadable call", "unreadable call"),
    # A filter took the answer, or refuses what was said before.
    (
        "azure: answer",
        400,
        error("The response was filtered by the content policy", "content_filter", innererror=AZURE_INNER),
        "content_filter",
        "content_filter",
    ),
    (
        "azure: prompt",
        400,
        error(AZURE_SAYS, "content_filter", param="prompt", innererror=AZURE_INNER),
        FAULT,
        "content_filter",
    ),
    (
        "litellm before azure: prompt",
        400,
        error(f"litellm.ContentPolicyViolationError: AzureException - {AZURE_SAYS}", "400", innererror=AZURE_INNER),
        FAULT,
        "content_filter",
    ),
    ("openai: invalid_prompt", 400, error("Your prompt was flagged.", "invalid_prompt"), FAULT, "content_filter"),
    (
        "openrouter: moderation",
        403,
        error("Your input was flagged", 403, metadata={"reasons": ["hate"], "flagged_input": "…"}),
        "config",
        "content_filter",
    ),
    (
        "dashscope: answer",
        400,
        error("Output data may contain inappropriate content.", "data_inspection_failed"),
        "content_filter",
        "content_filter",
    ),
    (
        "dashscope: prompt",
        400,
        error("<400> InternalError: Input data may contain inappropriate content.", "data_inspection_failed"),
        FAULT,
        "content_filter",
    ),
    ("moonshot", 400, error("high risk", type="content_filter"), "content_filter", "content_filter"),
    ("anthropic", 400, error("Output blocked by content filtering policy"), "content_filter", "content_filter"),
    ("deepseek", 400, error("Content Exists Risk"), "content_filter", "content_filter"),
    # Too long, by code.
    ("openai: code", 400, error("Too much.", "context_length_exceeded"), "length", "length"),
    ("openai: string", 400, error("string too long", "string_above_max_length"), "length", "length"),
    ("groq: 413 with a code", 413, error("Please reduce the length.", "context_length_exceeded"), "length", "length"),
    ("llama.cpp: type", 400, error("too large", 400, type="exceed_context_size_error"), "length", "length"),
    (
        "llama.cpp: fields",
        500,
        error("the request exceeds the context", 500, type="server_error", n_prompt_tokens=90, n_ctx=80),
        "length",
        "length",
    ),
    (
        "openrouter: raw",
        400,
        error("Provider returned error", 400, metadata={"raw": OPENROUTER_RAW}),
        "length",
        "length",
    ),
    (
        "gemini: a list",
        400,
        [error("The input token count (90) exceeds the maximum number of tokens allowed (80).", 400)],
        "length",
        "length",
    ),
    # Too long, by numbers.
    *[
        (f"{name}: sizes", status, body(words), "length", "length")
        for name, status, body, words in [
            (
                "openai",
                400,
                error,
                "This model's maximum context length is 80 tokens. However, your messages resulted in 90 tokens.",
            ),
            (
                "vllm to 0.15",
                400,
                flat,
                "This model's maximum context length is 80 tokens. However, you requested 125 tokens (85 in the "
                "messages, 40 in the completion).",
            ),
            (
                "vllm request",
                400,
                flat,
                "This model's maximum context length is 80 tokens. However, your request has 90 input tokens.",
            ),
            (
                "vllm from 0.16",
                400,
                error,
                "You passed 90 input tokens and requested 40 output tokens. However, the model's context length is "
                "only 80 tokens, resulting in a maximum input length of 40 tokens.",
            ),
            (
                "vllm engine",
                400,
                flat,
                "The decoder prompt (length 90) is longer than the maximum model length of 80. Make sure that it fits.",
            ),
            ("sglang", 400, flat, "The input (90 tokens) is longer than the model's context length (80 tokens)."),
            (
                "sglang total",
                500,
                flat,
                "Requested token count exceeds the model's maximum context length of 80 tokens. You requested a total "
                "of 125 tokens: 85 tokens from the input messages and 40 tokens for the completion.",
            ),
            ("llama.cpp", 500, error, "request (90 tokens) exceeds the available context size (80 tokens)"),
            (
                "tgi",
                422,
                error,
                "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 80. Given: 90 `inputs` tokens "
                "and 40 `max_new_tokens`",
            ),
            ("tgi inputs", 422, error, "`inputs` must have less than 80 tokens. Given: 90"),
            (
                "mistral",
                400,
                flat,
                "Prompt contains 90 tokens and 0 draft tokens, too large for model with 80 maximum context length",
            ),
            ("anthropic", 400, error, "prompt is too long: 210000 tokens > 200000 maximum"),
            ("anthropic sum", 400, error, "input length and `max_tokens` exceed context limit: 230 + 40 > 200"),
            ("gemini", 400, error, "The input token count (90) exceeds the maximum number of tokens allowed (80)."),
            ("xai", 400, error, "This model's maximum prompt length is 80 but the request contains 90 tokens."),
            (
                "openrouter",
                400,
                error,
                "This endpoint's maximum context length is 80 tokens. However, you requested about 125 tokens (85 of "
                "text input, 40 in the output).",
            ),
        ]
    ],
    (
        "openai: thinking cut off",
        400,
        error("Could not finish the message because max_tokens or model output limit was reached. Please try again."),
        "length",
        "length",
    ),
    # Words about lengths that say nothing: the server failed, or it refuses something else.
    ("any: context window of a device", 500, error("CUDA error; context window of device lost"), FAULT, SERVED),
    ("any: a field of that name", 400, error("unsupported field 'context_window'"), FAULT, "refused"),
    ("any: prompt is too long, no sizes", 400, error("prompt is too long"), FAULT, "refused"),
    (
        "any: sizes that fit",
        400,
        error("maximum context length is 900; your request has 90 input tokens"),
        FAULT,
        "refused",
    ),
    ("nginx: 413", 413, "<html>413 Request Entity Too Large</html>", FAULT, "refused"),
    ("groq: 413 of the rate", 413, error("Request too large: Limit 6000, Requested 8000"), FAULT, "refused"),
    # The server does not accept what is said in the conversation.
    (
        "openai: name",
        400,
        error("Invalid 'messages[1].tool_calls[0].function.name'", "invalid_value"),
        FAULT,
        "refused",
    ),
    ("mistral: id", 400, error("Tool call id must be a-z, A-Z, 0-9", "3280"), FAULT, "refused"),
    ("fastapi: detail", 422, {"detail": [{"loc": ["body"], "msg": "bad"}]}, FAULT, "refused"),
    ("any: deep error", 400, '{"error": ' + "[" * 200_000, FAULT, "refused"),
    ("any: no body", 400, "", FAULT, "refused"),
    ("firewall: 403", 403, "<html>Access denied</html>", "config", "refused"),
    # The account, the key and the address: no request can succeed.
    ("any: key", 401, error("bad key"), "config", "config"),
    ("any: rights", 403, error("no access to the model"), "config", "config"),
    ("any: address", 404, {"detail": "Not Found"}, "config", "config"),
    ("any: pay", 402, error("no credit"), "config", "config"),
    ("openai: quota", 429, error("pay first", "insufficient_quota"), "config", "config"),
    ("any: redirect", 307, "", "config", "config"),
    # The server is busy or broken: asked again, then discarded.
    *[
        (f"any: {status}", status, error("later"), FAULT, BUSY if status in (408, 409, 425, 429, 503, 529) else SERVED)
        for status in (408, 409, 425, 429, 500, 502, 503, 504, 529)
    ],
    ("nginx: 503", 503, "<html>unavailable</html>", FAULT, BUSY),
]


def response(status: int, body: Any) -> httpx.Response:
    return httpx.Response(status, text=body if isinstance(body, str) else json.dumps(body))


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


def turn(finish: Any = "stop", content: Any = "42", **more: Any) -> dict[str, Any]:
    choice = {"finish_reason": finish, **more.pop("choice", {})}
    return completion(content, choice=choice, **more)


def usage(completion_tokens: int) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": 3, "completion_tokens": completion_tokens}}


def called(arguments: Any) -> dict[str, Any]:
    function = {"name": "add", "arguments": arguments}
    return completion(None, [{"id": "c1", "type": "function", "function": function}])


def without(finish: str) -> dict[str, Any]:
    given = turn(finish)
    del given["choices"][0]["finish_reason"]
    return given


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
