"""What chat servers answer: errors, one row a cause and dialect with the verdict on each, and answers."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.policy.chat_server import completion


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
