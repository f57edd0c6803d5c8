"""A policy that asks a server for each turn, in any dialect: retries, keys, and turns that the server does not give.

The fields of requests and replies belong to the dialects, the meaning of errors to `agentrl.policy.remote.errors`, the
rule for retries to `agentrl.wire.retry`. The API key is read from the environment when a client is made; no error, log,
`repr` or record holds it.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Any

import httpx
from msgspec import structs

from agentrl.errors import ConfigError, PolicyFault
from agentrl.messages import Action, Message, Served
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.remote.dialect import Asked, Dialect
from agentrl.policy.remote.errors import ServerError, shorten, unreadable
from agentrl.policy.remote.history import encoded
from agentrl.policy.remote.options import ChatOptions
from agentrl.policy.remote.reading import ResponseError, redacted
from agentrl.policy.remote.transport import Lane, Reply, Sent, send, url_of
from agentrl.wire.per_loop import PerLoop
from agentrl.wire.redaction import Redactor
from agentrl.wire.retry import Failed, NoMoreAttempts, Retry, with_retries

logger = logging.getLogger(__name__)
_BUSY = frozenset({408, 409, 425, 429, 503, 529})
# Reasoning models write long answers. Most completions end long before this limit.
DEFAULT_SAMPLING = SamplingParams(max_tokens=4096)
_SHOWN_CHARS = 500
_GENERATION_CHARS = 4000
_CONTROL_TIMEOUT_S = 30.0
_FEW_TOKENS = 16  # OpenAI's Responses API takes no fewer
_KEY_CHARS = 16
_CREDENTIAL_HEADERS = ("authorization", "proxy-authorization", "x-api-key")


@dataclass(frozen=True, slots=True)
class _Lost(Failed):
    """An attempt whose connection failed."""


class _Busy(Failed):
    """An attempt that the server put off; a shorter conversation may get through, which proves nothing."""


class ServerPolicy(Policy):
    """Asks a server for each turn. Use it under `async with`, or call `aclose` at the end.

    Args:
        model: the model's name on the server.
        dialect: of the server's API; each policy has its own.
        base_url: address up to the version, such as `http://localhost:8000/v1`; by default that of the environment
            (`$OPENAI_BASE_URL`, `$ANTHROPIC_BASE_URL`), else the maker's.
        api_key_env: environment variable that holds the key; None is the API's own (`OPENAI_API_KEY`,
            `ANTHROPIC_API_KEY`). If it is not set, no key is sent.
        sampling: default of `act`.
        options: all other settings; each field can also be given directly (`timeout_s=30`).
        client: an httpx client to use instead of making one. Its own headers and timeouts hold, and the
            policy never closes it.
    Raises: ConfigError for a value that cannot be right.
    """

    def __init__(
        self,
        model: str,
        dialect: Dialect,
        *,
        base_url: str | None = None,
        api_key_env: str | None = None,
        sampling: SamplingParams | None = None,
        options: ChatOptions | None = None,
        client: httpx.AsyncClient | None = None,
        **more: Any,
    ) -> None:
        self.model, self.name = model, f"{dialect.kind}:{model}"
        self.api_key_env = api_key_env or dialect.api.key_env
        self.sampling = sampling or DEFAULT_SAMPLING
        self.options = replace(options or ChatOptions(), **more)
        dialect.check(self.options)
        self._dialect = dialect
        self._url = url_of(dialect.api.address(base_url), dialect.api)
        self.address = str(self._url.copy_with(username=None, password=None, query=None))
        self._lanes = PerLoop(partial(Lane.open, self.options, dialect, self.api_key_env, client), aclose=Lane.aclose)
        self._random = random.Random()
        self._answered = False
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, url={self.address!r})"

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
        return await self._turn(Asked(messages, tools, sampling or self.sampling))

    async def aclose(self) -> None:
        """Close the running event loop's connections; the policy can be used again."""
        lane = self._lanes.peek()
        self._lanes.forget()
        if lane is not None:
            await lane.aclose()

    # What becomes of a turn that the server does not give.

    async def _turn(self, request: Asked) -> Action:
        """The next turn; raises as `act`."""
        outcome = await self._outcome(request)
        if isinstance(outcome, ServerError) and (room := outcome.room_below(request.sampling.max_tokens)):
            request = request.with_room(room)
            outcome = await self._outcome(request)
        return outcome if isinstance(outcome, Action) else await self._turn_of(outcome, request)

    async def _turn_of(self, error: ServerError, request: Asked) -> Action:
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

    async def _turn_refused(self, error: ServerError, request: Asked) -> Action:
        """The turn after words of the model that the server does not accept; raises as `_turn_of`."""
        fault = self._refused(error)
        # A firewall in front of the server may refuse a conversation for a text in it.
        by_firewall = error.status in (403, 405) and error.is_page and self._answered
        if not request.has_spoken or (isinstance(fault, ConfigError) and not by_firewall):
            raise fault
        if request.has_blocks:
            self._warn_once("the server refuses a conversation with its own thoughts in it; they are left out", error)
            return await self._turn(request.without_blocks)
        if not await self._accepts_control(request, self.options.retry):
            if isinstance(fault, ConfigError):
                raise fault
            raise PolicyFault(
                f"{self.address} refused the request: {self._shown(str(error))}. It also refuses a conversation of "
                "AgentRL's own, so the cause is not what the model said: check that the server supports tools, and "
                "read its log.",
                answers=False,
            )
        self._warn_once("the server refuses a conversation for what the model said; it counts as a failure", error)
        return Action(finish_reason="refused")

    async def _outcome(self, request: Asked) -> Action | ServerError:
        """As `_ask`. Raises: PolicyFault if all retries fail."""
        started = monotonic()
        try:
            return await self._ask(request, self.options.retry)
        except NoMoreAttempts as end:
            seconds, answers = monotonic() - started, None
            if not end.asked_too_long:
                busy = isinstance(end.last, _Busy)
                answers = not busy and await self._accepts_control(request, Retry(attempts=1))
                answers = answers if request.has_spoken else answers or None
            raise self._exhausted(end, seconds, answers) from None

    async def _accepts_control(self, request: Asked, retry: Retry) -> bool:
        """Whether the server answers a conversation that no model had a hand in.

        Where no model has spoken yet, only the answer can be the model's doing: the same conversation, with room for a
        few tokens.
        """
        control = request.control if request.has_spoken else request.with_room(_FEW_TOKENS)
        if not request.has_spoken and request.sampling.max_tokens <= _FEW_TOKENS:
            return False
        try:
            outcome = await self._ask(control, retry, min(self.options.timeout_s, _CONTROL_TIMEOUT_S))
        except NoMoreAttempts:
            return False
        return isinstance(outcome, Action) or outcome.meaning(0) in ("unreadable_call", "filtered", "cut_off")

    def _warn_once(self, what: str, error: ServerError) -> None:
        if what not in self._warned:
            self._warned.add(what)
            logger.warning("%s: %s", what, self._shown(str(error)))

    # Requests.

    async def _ask(self, request: Asked, retry: Retry, timeout_s: float | None = None) -> Action | ServerError:
        """The action, or an error that a retry would not change. Raises: NoMoreAttempts if all attempts fail."""
        lane, body = self._lanes.get(), self._dialect.body(self.model, request, self.options)
        message = Sent(encoded(body), self._dialect.request_headers(body, self.options))
        timeout_s = timeout_s or self.options.timeout_s

        def before_wait(failed: Failed, failures: int, wait_s: float) -> None:
            if failed.asked_s is not None:
                lane.gate.pause(failed.asked_s)  # the server asks this of every request, not only of this one
            logger.info("try %d failed, next in %.1f s: %s", failures, wait_s, failed.reason)

        return await with_retries(
            lambda: self._try(lane, message, request, timeout_s), retry, self._random, before_wait=before_wait
        )

    async def _try(self, lane: Lane, message: Sent, request: Asked, timeout_s: float) -> Action | ServerError | Failed:
        """One request: an action, an error that a retry would not change, or a failure that a retry may solve."""
        most_bytes = self.options.max_reply_bytes
        try:
            async with lane.gate:
                reply = await send(lane.client, self._url, message, timeout_s=timeout_s, most_bytes=most_bytes)
            outcome = reply if isinstance(reply, ServerError) else self._read(reply, request)
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout):
            return Failed(f"no answer within timeout_s={timeout_s:g}")
        except httpx.RequestError as error:
            return _Lost(self._shown(f"{type(error).__name__}: {error}"))
        except ResponseError as error:
            return Failed(self._shown(f"{type(error).__name__}: {error}"))
        except RecursionError:
            return Failed("ResponseError: the body is nested too deeply")
        if isinstance(outcome, Action) or outcome.meaning(request.sampling.max_tokens) != "again":
            return outcome
        kind = _Busy if outcome.status in _BUSY else Failed
        return kind(self._shown(str(outcome)), outcome.retry_after_s)

    def _read(self, reply: Reply, request: Asked) -> Action | ServerError:
        error = self._dialect.error_inside(reply.body)
        if error is not None:
            return error
        if not isinstance(reply.body, Mapping):
            raise ResponseError(f"the body is not a JSON object: {reply.body!r}")
        action = self._dialect.action(reply.body, request, self.options)
        served = structs.replace(action.served or Served(), latency_s=round(reply.latency_s, 6))
        # A short secret is no key, but a word such as EMPTY, which an answer may hold.
        secrets = [secret for secret in self._secrets() if len(secret) >= _KEY_CHARS]
        self._answered = True
        return redacted(structs.replace(action, served=served), Redactor(secrets))

    # Errors.

    def _exhausted(self, end: NoMoreAttempts, seconds: float, answers: bool | None) -> PolicyFault:
        asks = f" (asks to wait {end.last.asked_s:g} s)" if end.asked_too_long else ""
        return PolicyFault(
            f"{self.address} gave no completion in {end.attempts} tries over {seconds:.1f} s; the last failure: "
            f"{end.last.reason}{asks}. Check that the server is up, and read its log; then raise timeout_s or "
            "max_retries, or lower max_concurrency or requests_per_minute.",
            who="network" if isinstance(end.last, _Lost) else "server",
            answers=answers,
        )

    def _refused(self, error: ServerError) -> ConfigError | PolicyFault:
        said = f"{self.address} refused the request: {self._shown(str(error))}. "
        if error.status in (401, 403):
            state = "is set, but the server does not accept it" if os.environ.get(self.api_key_env) else "is not set"
            return ConfigError(f"{said}The environment variable {self.api_key_env} {state}: set it to a valid key.")
        if error.status in (404, 405) or 300 <= error.status < 400:
            return ConfigError(
                f"{said}Check the model name {self.model!r}, and base_url, which usually ends in /v1 "
                f"(without {self._dialect.api.path})."
            )
        if error.status in (402, 429):
            return ConfigError(f"{said}The account has no quota left: add credit, or use another key or server.")
        if self._answered:
            return PolicyFault(f"{said}The server accepted other conversations, so the cause is in this one.")
        return ConfigError(
            f"{said}Check the model name {self.model!r}. If this server does not support a field, leave it out with "
            "the option omit=['FIELD']; the options max_tokens_field, tool_choice and send_reasoning may help too."
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
