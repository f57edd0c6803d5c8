"""A policy that asks an OpenAI-compatible `/chat/completions` server for each turn, over httpx.

Owns connections, waiting and keys, and what becomes of a turn that the server does not give. The fields of requests
and responses belong to `agentrl.policy.chat_wire`, the meaning of errors to `agentrl.policy.chat_errors`, the rule for
retries to `agentrl.wire.retry`. The API key is read from the environment when a client is made; no error, log, `repr`
or record holds it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Any

import httpx

from agentrl.errors import ConfigError, PolicyFault
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.chat_errors import ServerError, error_inside, error_of, shorten, unreadable
from agentrl.policy.chat_history import encoded
from agentrl.policy.chat_options import ChatOptions
from agentrl.policy.chat_wire import (
    REASONING_FIELDS,
    ResponseError,
    action_of,
    reasoning_field_of,
    redacted,
    request_body,
)
from agentrl.policy.control import control_messages, has_spoken
from agentrl.wire.per_loop import PerLoop
from agentrl.wire.redaction import Redactor
from agentrl.wire.retry import Failed, NoMoreAttempts, Retry, with_retries

logger = logging.getLogger(__name__)
_BUSY = frozenset({408, 409, 425, 429, 503, 529})
# Reasoning models write long answers. Most completions end long before this limit.
DEFAULT_SAMPLING = SamplingParams(max_tokens=4096)
OPENAI_URL = "https://api.openai.com/v1"
_CONNECT_TIMEOUT_S = 10.0
_SHOWN_CHARS = 500
_GENERATION_CHARS = 4000
_CONTROL_TIMEOUT_S = 30.0
_KEY_CHARS = 16
_JSON = {"Content-Type": "application/json"}
_CREDENTIAL_HEADERS = ("authorization", "proxy-authorization")


class _Gate:
    """Limits the requests of one event loop: how many at once, how far apart, and none during a server's pause."""

    def __init__(self, max_concurrency: int, requests_per_minute: float | None) -> None:
        self._slots = asyncio.Semaphore(max_concurrency)
        self._spacing_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_s = 0.0
        self._closed_until_s = 0.0

    def pause(self, seconds: float) -> None:
        self._closed_until_s = max(self._closed_until_s, monotonic() + seconds)

    async def __aenter__(self) -> None:
        await self._slots.acquire()
        try:
            while (wait_s := self._closed_until_s - monotonic()) > 0:  # noqa: ASYNC110 (a pause may be prolonged)
                await asyncio.sleep(wait_s)
            if self._spacing_s:
                at_s = max(monotonic(), self._next_s)
                self._next_s = at_s + self._spacing_s
                await asyncio.sleep(at_s - monotonic())
        except BaseException:
            self._slots.release()
            raise

    async def __aexit__(self, *error: object) -> None:
        self._slots.release()


@dataclass(slots=True)
class _Lane:
    """The client and the gate of one event loop; neither works in another loop.

    Attributes:
        owned: whether the policy made the client, and so closes it.
    """

    client: httpx.AsyncClient
    gate: _Gate
    owned: bool


@dataclass(frozen=True, slots=True)
class _Lost(Failed):
    """An attempt whose connection failed."""


class _Busy(Failed):
    """An attempt that the server put off; a shorter conversation may get through, which proves nothing."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A conversation that waits for its next turn."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]]
    sampling: SamplingParams

    @property
    def has_spoken(self) -> bool:
        """Whether the conversation holds a model's words."""
        return has_spoken(self.messages)

    @property
    def control(self) -> _Request:
        """A conversation of the same form that no model had a hand in."""
        return replace(self, messages=control_messages(self.tools))


class ChatPolicy(Policy):
    """Asks a server for each turn. Use it under `async with`, or call `aclose` at the end.

    Args:
        model: the model's name on the server.
        base_url: address up to and including `/v1`; by default `$OPENAI_BASE_URL`, else OpenAI.
        api_key_env: environment variable that holds the key; if it is not set, no key is sent.
        sampling: default of `act`.
        options: all other settings; each field can also be given directly (`timeout_s=30`).
        client: an httpx client to use instead of making one. Its own headers and timeouts hold, and the
            policy never closes it.
    Raises: ConfigError for a value that cannot be right.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        sampling: SamplingParams | None = None,
        options: ChatOptions | None = None,
        client: httpx.AsyncClient | None = None,
        **more: Any,
    ) -> None:
        self.model, self.name = model, f"openai:{model}"
        self.api_key_env = api_key_env
        self.sampling = sampling or DEFAULT_SAMPLING
        self.options = replace(options or ChatOptions(), **more)
        self._url = _completions_url(base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL)
        self._lanes = PerLoop(partial(_open_lane, self.options, api_key_env, client), aclose=_close_lane)
        self._random = random.Random()
        self._reasoning_field = REASONING_FIELDS[0]
        self._answered = False
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        return f"ChatPolicy({self.model!r}, url={self._shown_url!r})"

    @property
    def _shown_url(self) -> str:
        """The address without user, password and query, which may hold secrets."""
        return str(self._url.copy_with(username=None, password=None, query=None))

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        """One completion.

        An action without text stands for what the model did and the server withholds: `finish_reason` is `length`
        where the conversation does not fit into the context, `content_filter` where a filter took the turn or refuses
        what the model said before, `refused` where the server refuses what the model said for another reason. A call
        that the server could not read is a call with `ToolCall.error`.

        Raises:
            PolicyFault: all retries failed, or the server refuses a conversation in which no model has spoken.
            ConfigError: the key, the model, the address or a field of the request is wrong, so that no request
                can succeed.
        """
        request = _Request(messages, tools, sampling or self.sampling)
        outcome = await self._outcome(request)
        if isinstance(outcome, ServerError) and (room := outcome.room_below(request.sampling.max_tokens)):
            request = replace(request, sampling=replace(request.sampling, max_tokens=room))
            outcome = await self._outcome(request)
        return outcome if isinstance(outcome, Action) else await self._turn_of(outcome, request)

    async def aclose(self) -> None:
        """Close the running event loop's connections; the policy can be used again."""
        lane = self._lanes.peek()
        self._lanes.forget()
        if lane is not None:
            await _close_lane(lane)

    # What becomes of a turn that the server does not give.

    async def _turn_of(self, error: ServerError, request: _Request) -> Action:
        """The turn that an error stands for. Raises: PolicyFault or ConfigError if it is no doing of the model."""
        meaning = error.meaning(request.sampling.max_tokens)
        if meaning == "unreadable_call":
            self._answered = True
            generation = shorten(self._without_secrets(error.generation), _GENERATION_CHARS)
            return unreadable(error, self._shown(error.message), generation)
        if meaning == "filtered" or (meaning == "filtered_prompt" and request.has_spoken):
            return Action(finish_reason="content_filter")
        if meaning == "too_long":
            self._warn_once(
                "the server's context is too short for a conversation; such turns count as truncated", error
            )
            return Action(finish_reason="length")
        if meaning == "cut_off":
            return Action(finish_reason="length")
        return await self._turn_refused(error, request)

    async def _turn_refused(self, error: ServerError, request: _Request) -> Action:
        """The turn after words of the model that the server does not accept; raises as `_turn_of`."""
        fault = self._refused(error)
        # A firewall in front of the server may refuse a conversation for a text in it.
        by_firewall = error.status in (403, 405) and error.is_page and self._answered
        if not request.has_spoken or (isinstance(fault, ConfigError) and not by_firewall):
            raise fault
        if not await self._accepts_control(request, self.options.retry):
            if isinstance(fault, ConfigError):
                raise fault
            raise PolicyFault(
                f"{self._shown_url} refused the request: {self._shown(str(error))}. It also refuses a conversation of "
                "AgentRL's own, so the cause is not what the model said: check that the server supports tools, and "
                "read its log.",
                answers=False,
            )
        self._warn_once("the server refuses a conversation for what the model said; it counts as a failure", error)
        return Action(finish_reason="refused")

    async def _outcome(self, request: _Request) -> Action | ServerError:
        """As `_ask`. Raises: PolicyFault if all retries fail."""
        started = monotonic()
        try:
            return await self._ask(request, self.options.retry)
        except NoMoreAttempts as end:
            seconds, answers = monotonic() - started, None
            if request.has_spoken and not end.asked_too_long:
                busy = isinstance(end.last, _Busy)
                answers = not busy and await self._accepts_control(request, Retry(attempts=1))
            raise self._exhausted(end, seconds, answers) from None

    async def _accepts_control(self, request: _Request, retry: Retry) -> bool:
        """Whether the server answers a conversation that no model had a hand in."""
        try:
            outcome = await self._ask(request.control, retry, min(self.options.timeout_s, _CONTROL_TIMEOUT_S))
        except NoMoreAttempts:
            return False
        return isinstance(outcome, Action) or outcome.meaning(0) in ("unreadable_call", "filtered")

    def _warn_once(self, what: str, error: ServerError) -> None:
        if what not in self._warned:
            self._warned.add(what)
            logger.warning("%s: %s", what, self._shown(str(error)))

    # Requests.

    def _body(self, request: _Request) -> bytes:
        options = self.options
        about_tools = {"tool_choice": options.tool_choice, "parallel_tool_calls": options.parallel_tool_calls}
        body = request_body(
            self.model,
            request.messages,
            request.tools,
            request.sampling,
            max_tokens_field=options.max_tokens_field,
            reasoning_field=self._reasoning_field if options.send_reasoning else None,
            return_token_ids=options.return_token_ids,
            options={**about_tools, **options.extra_body},
        )
        return encoded(body)

    async def _ask(self, request: _Request, retry: Retry, timeout_s: float | None = None) -> Action | ServerError:
        """The action, or an error that a retry would not change. Raises: NoMoreAttempts if all attempts fail."""
        lane, body = self._lanes.get(), self._body(request)
        timeout_s = timeout_s or self.options.timeout_s

        def before_wait(failed: Failed, failures: int, wait_s: float) -> None:
            if failed.asked_s is not None:
                lane.gate.pause(failed.asked_s)  # the server asks this of every request, not only of this one
            logger.info("try %d failed, next in %.1f s: %s", failures, wait_s, failed.reason)

        return await with_retries(
            lambda: self._try(lane, body, request.sampling, timeout_s), retry, self._random, before_wait=before_wait
        )

    async def _try(
        self, lane: _Lane, body: bytes, sampling: SamplingParams, timeout_s: float
    ) -> Action | ServerError | Failed:
        """One request: an action, an error that a retry would not change, or a failure that a retry may solve."""
        try:
            async with lane.gate:
                reply = await self._send(lane.client, body, timeout_s)
            outcome = reply if isinstance(reply, ServerError) else self._read(reply, sampling)
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout):
            return Failed(f"no answer within timeout_s={timeout_s:g}")
        except httpx.RequestError as error:
            return _Lost(self._shown(f"{type(error).__name__}: {error}"))
        except ResponseError as error:
            return Failed(self._shown(f"{type(error).__name__}: {error}"))
        except RecursionError:
            return Failed("ResponseError: the body is nested too deeply")
        if isinstance(outcome, Action) or outcome.meaning(sampling.max_tokens) != "again":
            return outcome
        kind = _Busy if outcome.status in _BUSY else Failed
        return kind(self._shown(str(outcome)), outcome.retry_after_s)

    async def _send(self, client: httpx.AsyncClient, body: bytes, timeout_s: float) -> Mapping[str, Any] | ServerError:
        async with (
            asyncio.timeout(timeout_s),
            client.stream("POST", self._url, content=body, headers=_JSON) as response,
        ):
            content = await _content_of(response, self.options.max_reply_bytes)
        if response.status_code != 200:
            return error_of(response.status_code, content, response.headers)
        try:
            parsed = json.loads(content)
        except ValueError:
            raise ResponseError(f"the body is not JSON: {content.decode(errors='replace')}") from None
        error = error_inside(parsed)
        if error is None and not isinstance(parsed, Mapping):
            raise ResponseError(f"the body is not a JSON object: {parsed!r}")
        return error or parsed

    def _read(self, response: Mapping[str, Any], sampling: SamplingParams) -> Action:
        # A short secret is no key, but a word such as EMPTY, which an answer may hold.
        secrets = [secret for secret in self._secrets() if len(secret) >= _KEY_CHARS]
        action = redacted(action_of(response, sampling, self.options.extra_body), Redactor(secrets))
        self._reasoning_field = reasoning_field_of(response) or self._reasoning_field
        self._answered = True
        return action

    # Errors.

    def _exhausted(self, end: NoMoreAttempts, seconds: float, answers: bool | None) -> PolicyFault:
        asks = f" (asks to wait {end.last.asked_s:g} s)" if end.asked_too_long else ""
        return PolicyFault(
            f"{self._shown_url} gave no completion in {end.attempts} tries over {seconds:.1f} s; the last failure: "
            f"{end.last.reason}{asks}. Check that the server is up, and read its log; then raise timeout_s or "
            "max_retries, or lower max_concurrency or requests_per_minute.",
            who="network" if isinstance(end.last, _Lost) else "server",
            answers=answers,
        )

    def _refused(self, error: ServerError) -> ConfigError | PolicyFault:
        said = f"{self._shown_url} refused the request: {self._shown(str(error))}. "
        if error.status in (401, 403):
            state = "is set, but the server does not accept it" if os.environ.get(self.api_key_env) else "is not set"
            return ConfigError(f"{said}The environment variable {self.api_key_env} {state}: set it to a valid key.")
        if error.status in (404, 405) or 300 <= error.status < 400:
            return ConfigError(
                f"{said}Check the model name {self.model!r}, and base_url, which usually ends in /v1 "
                "(without /chat/completions)."
            )
        if error.status in (402, 429):
            return ConfigError(f"{said}The account has no quota left: add credit, or use another key or server.")
        if self._answered:
            return PolicyFault(f"{said}The server accepted other conversations, so the cause is in this one.")
        return ConfigError(
            f"{said}Check the model name {self.model!r}. If this server does not support a field, remove it with "
            "extra_body={'FIELD': None}; the options max_tokens_field, tool_choice and send_reasoning may help too."
        )

    def _shown(self, text: str) -> str:
        """A server's text as an error or a log may show it: without secrets, at most 500 characters."""
        # Secrets are removed before the cut: a cut inside a secret would leave its beginning in the text.
        return shorten(self._without_secrets(text), _SHOWN_CHARS)

    def _without_secrets(self, text: str) -> str:
        return Redactor(self._secrets()).text(text)

    def _secrets(self) -> list[str]:
        """The key and the values of the headers; servers often echo them."""
        headers = {name.lower(): value for name, value in self.options.headers.items()}
        # `Bearer KEY`: a server may echo the key alone.
        credentials = [headers.get(name, "").split(" ", 1)[-1] for name in _CREDENTIAL_HEADERS]
        return [os.environ.get(self.api_key_env, "").strip(), *headers.values(), *credentials, self._url.password]


def _open_lane(options: ChatOptions, api_key_env: str, given: httpx.AsyncClient | None) -> _Lane:
    gate = _Gate(options.max_concurrency, options.requests_per_minute)
    return _Lane(given or _make_client(options, api_key_env), gate, owned=given is None)


async def _close_lane(lane: _Lane) -> None:
    if lane.owned:
        await lane.client.aclose()


async def _content_of(response: httpx.Response, most: int) -> bytes:
    """The body. Raises: ResponseError if it is larger than `most` bytes."""
    parts, size = [], 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > most:
            raise ResponseError(f"the body is larger than max_reply_bytes={most}")
        parts.append(part)
    return b"".join(parts)


def _make_client(options: ChatOptions, api_key_env: str) -> httpx.AsyncClient:
    key = os.environ.get(api_key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in {api_key_env} has characters that a key cannot have: set it again")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(
        headers={**headers, **options.headers},
        timeout=httpx.Timeout(options.timeout_s, connect=min(_CONNECT_TIMEOUT_S, options.timeout_s)),
        limits=httpx.Limits(max_connections=options.max_concurrency, max_keepalive_connections=options.max_concurrency),
    )


def _completions_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"base_url is not a URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(
            f"base_url must begin with http:// or https:// and a host, like http://localhost:8000/v1, got {base_url!r}"
        )
    return url.copy_with(path=url.path.rstrip("/").removesuffix("/chat/completions") + "/chat/completions")
