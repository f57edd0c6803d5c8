"""What an error of a chat server means: whose doing it is, and what becomes of the turn. Pure functions.

Owns the dialects of errors (OpenAI, Azure, vLLM, SGLang, llama.cpp, Ollama, TGI, Groq, OpenRouter, Gemini, ...).
Codes, fields and numbers decide. Words decide only where a dialect has no code, and then only sentences that a
server's own parser or filter is known to write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentrl.messages import Action, ToolCall
from agentrl.safe_json import safe_text
from agentrl.wire.retry import retry_after_s

Meaning = Literal["again", "unreadable_call", "filtered", "filtered_prompt", "too_long", "cut_off", "refused"]
"""What an error says about the request.

`again`: the server failed, and a later request may succeed. `unreadable_call`: the model made a call that the server's
parser cannot read. `filtered`: a filter withholds what the model wrote; `filtered_prompt`: it refuses the conversation.
`too_long`: the conversation does not fit into the context. `cut_off`: the turn reached `max_tokens` before it held any
text. `refused`: anything else that the server does not accept.
"""

_MESSAGE_CHARS = 4000
_FIELD_DEPTH = 5
_RETRIED_STATUS = frozenset({408, 409, 425, 429})
# The statuses of errors about what the model wrote. The others are about the account, the address or the load.
_ABOUT_CONTENT = frozenset({400, 403, 413, 422, 500, 502})
_SPENT_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_TOO_LONG_CODES = frozenset(
    {
        "context_length_exceeded",  # OpenAI, Azure, Groq
        "exceed_context_size_error",  # llama.cpp
        "string_above_max_length",  # OpenAI
        "model_max_prompt_tokens_exceeded",  # GitHub
        "model_context_window_exceeded",  # Z.ai
        "request_too_large",  # Anthropic
    }
)
_CALL_CODES = frozenset({"tool_use_failed"})  # Groq
_FILTER_CODES = frozenset(
    {
        "content_filter",  # Azure, Moonshot
        "responsibleaipolicyviolation",  # Azure, and gateways in front of it
        "content_policy_violation",  # OpenAI
        "bio_policy",  # OpenAI's Responses, as the next two
        "misalignment_policy_violation",
        "image_content_policy_violation",
        "data_inspection_failed",  # DashScope
        "datainspectionfailed",
        "invalid_prompt",  # OpenAI, about the prompt
        "flagged_input",  # OpenRouter: the name of a field
    }
)
_FILTER_SAYS = re.compile(
    r"^output blocked by content filtering policy"  # Anthropic
    r"|^content exists risk",  # DeepSeek
    re.IGNORECASE,
)
_PROMPT_CODES = frozenset({"invalid_prompt", "flagged_input"})
_PROMPT_SAYS = re.compile(r"due to the prompt triggering|\binput (?:text )?data may contain", re.IGNORECASE)
_CALL_SAYS = re.compile(
    r"(?:failed to|could not|cannot|can't|unable to|error) pars(?:e|ing)"
    r" (?:the |model'?s? |generated )*(?:tool|function)[ _-]?calls?\b"  # vLLM, SGLang, llama.cpp, Ollama
    r"|(?:tool|function)[ _-]?calls? (?:could not|cannot|can't) be parsed"
    r"|failed to parse input\b"  # llama.cpp
    r"|invalid diff: now finding less tool calls"  # llama.cpp
    r"|failed to parse fc related info"  # SGLang, LMDeploy
    r"|unexpected tokens remaining in message header|while expecting start token \d"  # vLLM with gpt-oss
    r"|^(?:\w+: )?invalid tool[ _-]calls?\b(?!.{0,9}\bid)",
    re.IGNORECASE,
)
_CUT_OFF_SAYS = re.compile(
    r"^could not finish the message because max_tokens", re.IGNORECASE
)  # OpenAI, reasoning models
# Sizes in tokens: `prompt`, `total` (with the answer that was asked for), and `context`, which they must fit into.
_SIZES = tuple(
    re.compile(pattern.replace(r"\d+", r"\d{1,12}"), re.IGNORECASE)
    for pattern in (
        r"maximum context length is (?P<context>\d+).*?(?:requested|resulted in) (?:about )?(?P<total>\d+) tokens"
        r"(?:\. | )?\((?P<prompt>\d+) (?:in the (?:messages|prompt)|of text input)",  # OpenAI, vLLM, OpenRouter
        r"maximum context length is (?P<context>\d+).*?(?:requested|resulted in) (?:about )?(?P<total>\d+) tokens",
        r"maximum context length is (?P<context>\d+).*?request has (?P<prompt>\d+) input tokens",  # vLLM
        r"passed (?P<prompt>\d+) input tokens.*?context length is only (?P<context>\d+)",  # vLLM from 0.16
        r"prompt \(length (?P<prompt>\d+)\) is longer than the maximum model length of (?P<context>\d+)",  # vLLM
        r"input \((?P<prompt>\d+) tokens\) is longer than the model's context length \((?P<context>\d+)",  # SGLang
        r"maximum context length of (?P<context>\d+) tokens.*?total of (?P<total>\d+) tokens: (?P<prompt>\d+)",
        r"request \((?P<prompt>\d+) tokens\) exceeds the available context size \((?P<context>\d+)",  # llama.cpp
        r"must be <= (?P<context>\d+)\. Given: (?P<prompt>\d+) `inputs` tokens",  # TGI
        r"`inputs` must have less than (?P<context>\d+) tokens\. Given: (?P<prompt>\d+)",
        r"prompt contains (?P<prompt>\d+) tokens.*?too large for model with (?P<context>\d+)",  # Mistral
        r"prompt is too long: (?P<prompt>\d+) tokens > (?P<context>\d+)",  # Anthropic
        r"exceed context limit: (?P<prompt>\d+) \+ \d+ > (?P<context>\d+)",
        r"prompt is too long: (?P<prompt>\d+), model maximum context length: (?P<context>\d+)",  # Fireworks
        r"input token count \((?P<prompt>\d+)\) exceeds the maximum number of tokens allowed \((?P<context>\d+)",
        r"maximum prompt length is (?P<context>\d+) but the request contains (?P<prompt>\d+)",  # xAI
        r"input length \(?(?P<prompt>\d+)\)? exceeds .{0,40}?length (?:of )?\(?(?P<context>\d+)",
        r"prompt token count of (?P<prompt>\d+) exceeds the limit of (?P<context>\d+)",  # GitHub
    )
)
_CODE_IN_TEXT = re.compile(r"""["']code["']: ?["'](\w+)["']""")  # gateways put the error of the server into a text
_NAME_IN_CALL = re.compile(
    r'"name"\s*:\s*"([^"\\]{1,64})"|<function=([\w.-]{1,64})|parameters for tool ([\w.-]{1,64}) '
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What an error says about sizes, in tokens; 0 where it says nothing."""

    context: int = 0
    prompt: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class ServerError:
    """An error that a server answered. All texts may hold secrets.

    Attributes:
        status: HTTP status, or the code of an error object in an answer with status 200.
        message: the server's text, one line, at most 4000 characters.
        codes: machine-readable codes and types in it, in lower case.
        about_prompt: fields or the filter's own sentence say that the conversation was filtered, not the answer.
        generation: what the model wrote, where the server says it.
        sizes: in tokens.
        retry_after_s: seconds that the server asks to wait; None if it does not say.
    """

    status: int
    message: str
    codes: frozenset[str] = frozenset()
    about_prompt: bool = False
    generation: str = ""
    sizes: Sizes = Sizes()
    retry_after_s: float | None = None

    def meaning(self, max_tokens: int) -> Meaning:
        """What the error means for a request that asked for at most `max_tokens` tokens."""
        temporary = (self.status in _RETRIED_STATUS or self.status >= 500) and not self.codes & _SPENT_CODES
        if self.status in _ABOUT_CONTENT and not self.codes & _SPENT_CODES:
            if self.codes & _CALL_CODES or self.generation or self._says(_CALL_SAYS):
                return "unreadable_call"
            if self.codes & _FILTER_CODES or self._says(_FILTER_SAYS):
                return "filtered_prompt" if self.about_prompt else "filtered"
            if self.codes & _TOO_LONG_CODES or _too_long(self.sizes, max_tokens):
                return "too_long"
            if self._says(_CUT_OFF_SAYS):
                return "cut_off"
        return "again" if temporary else "refused"

    @property
    def is_page(self) -> bool:
        """Whether a proxy or a firewall answered with a web page, and not the server with an error of its own."""
        return self.message.startswith("<") and not self.codes

    def _says(self, sentence: re.Pattern[str]) -> bool:
        return any(sentence.search(text) for text in (self.message, *self.codes))

    def room_below(self, max_tokens: int) -> int:
        """Tokens that the context has left for a shorter answer than `max_tokens`; 0 for none, or if it is unknown."""
        room = self.sizes.context - self.sizes.prompt if self.sizes.prompt else 0
        return room if 0 < room < max_tokens and self.meaning(max_tokens) == "too_long" else 0

    def __str__(self) -> str:
        return f"{self.status} {self.message}".strip()


def _too_long(sizes: Sizes, max_tokens: int) -> bool:
    """Whether the numbers say that the prompt, or the prompt and the answer, do not fit."""
    if not sizes.context:
        return False
    with_answer = sizes.total or (sizes.prompt + max_tokens if sizes.prompt else 0)
    return sizes.prompt >= sizes.context or with_answer > sizes.context or sizes.total >= sizes.context


def error_of(status: int, content: bytes, headers: Mapping[str, str] | None = None) -> ServerError:
    """Read an error body, in OpenAI's form, vLLM's flat form, FastAPI's `detail`, Google's list, or as plain text."""
    text = content.decode(errors="replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, list) and body:
        body = body[0]
    wait_s = retry_after_s(headers or {})
    if not isinstance(body, Mapping):
        return _read_error(status, text, {}, wait_s)
    error = body.get("error") or body
    return _read_error(status, error if isinstance(error, str) else text, error, wait_s)


def error_of_object(error: Any, status: int | None = None) -> ServerError:
    """The error in an object that stands in a reply with status 200. Args: status: that it stands for, if known."""
    return _read_error(status or _status_in(error), str(error), error, None)


def within_answer(error: Any, status: int | None = None) -> ServerError:
    """An error that came while the model was writing; arguments as `error_of_object`."""
    found = error_of_object(error, status)
    # The server had accepted the request: whatever is no doing of the model is its own.
    return error_of_object(error, 502) if found.meaning(0) == "refused" else found


def unreadable(error: ServerError, shown: str, generation: str) -> Action:
    """The turn of a model whose call the server could not read: the environment answers the call with the reason.

    Args:
        error: as the server gave it.
        shown: the error without secrets.
        generation: what the model wrote, without secrets; empty if the server does not say.
    """
    found = _NAME_IN_CALL.search(f"{error.generation} {error.message}")
    name = next((group for group in found.groups() if group), "") if found else ""
    call = ToolCall(name, {}, "call_0", f"the server could not read it: {shown}")
    return Action(text=generation, tool_calls=(call,), finish_reason="tool_calls")


def shorten(text: str, max_chars: int) -> str:
    """The text, cut after `max_chars` characters."""
    return text if len(text) <= max_chars else text[:max_chars] + "…"


def _read_error(status: int, text: str, error: Any, wait_s: float | None) -> ServerError:
    """The error in an error object, or in a text where `error` is no object."""
    fields = list(_fields(error)) if isinstance(error, Mapping) else []
    by_name = dict(reversed(fields))
    said = by_name.get("message") or by_name.get("detail") or text
    message = " ".join(safe_text(said if isinstance(said, str) else json.dumps(said)).split())
    codes = {value.lower() for name, value in fields if name in ("code", "type") and isinstance(value, str)}
    codes |= {code.lower() for code in _CODE_IN_TEXT.findall(message)} | ({"flagged_input"} & by_name.keys())
    generation = by_name.get("failed_generation")
    return ServerError(
        status,
        shorten(message, _MESSAGE_CHARS),
        frozenset(codes),
        by_name.get("param") == "prompt" or bool(codes & _PROMPT_CODES or _PROMPT_SAYS.search(message)),
        generation if isinstance(generation, str) else "",
        _sizes_of(by_name, message),
        wait_s,
    )


def _fields(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The fields of an error object and of the objects in it, outer ones first."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return
    if not isinstance(value, Mapping) or depth > _FIELD_DEPTH:
        return
    yield from value.items()
    for name, inner in value.items():
        if name == "raw" or isinstance(inner, Mapping):  # OpenRouter's `raw` is the provider's body, as a text
            yield from _fields(inner, depth + 1)


def _sizes_of(fields: Mapping[str, Any], message: str) -> Sizes:
    context, prompt = fields.get("n_ctx"), fields.get("n_prompt_tokens")  # llama.cpp
    if isinstance(context, int) and isinstance(prompt, int):
        return Sizes(context, prompt)
    for pattern in _SIZES:
        found = pattern.search(message)
        if found:
            return Sizes(**{name: int(size) for name, size in found.groupdict().items() if size})
    return Sizes()


def _status_in(error: Any) -> int:
    """The status that an error object names as its code; 502 if it names none."""
    code = error.get("code") if isinstance(error, Mapping) else None
    code = int(code) if isinstance(code, str) and re.fullmatch("[0-9]{3}", code) else code
    return code if isinstance(code, int) and 400 <= code < 600 else 502
