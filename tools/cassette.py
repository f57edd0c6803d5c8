"""Record and replay for httpx: the answers of a server are written to a JSON-lines file and read from it.

Owns the file and the matching of requests. Requests match if method, address and body are equal, and in an episode if
the same requests that may change the server came before; headers are not compared. Secrets are removed before anything
is compared or written: the credentials that `HttpApi` attaches to the request, and the values of query parameters with
a secret name.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import httpx

from agentrl.env.author_code import acting_env, episode_state
from agentrl.errors import ConfigError, EnvFault
from agentrl.tools.http_credentials import UNRECORDED_EXTENSION
from agentrl.tools.http_sender import MOST_BYTES_EXTENSION, SECRETS_EXTENSION
from agentrl.tools.http_settings import CONNECTIONS, is_retried
from agentrl.tools.tape import Tape
from agentrl.wire.per_loop import PerLoop
from agentrl.wire.redaction import REDACTED, Redactor
from agentrl.wire.reply import read_bounded
from agentrl.wire.request_text import is_unicode

Mode = Literal["record", "replay", "auto"]
SECRET_PARAMETERS = frozenset({"api_key", "apikey", "api-key", "access_token", "token", "key", "signature", "secret"})
_KEPT_HEADERS = ("content-type", "location", "link")
READS = frozenset({"GET", "HEAD", "OPTIONS"})
MOST_BYTES = 16_000_000  # of an answer that a client without a limit of its own asked for
MOST_CALLS = 8  # that a message lists


class Cassette(httpx.AsyncBaseTransport):
    """An httpx transport that records real answers and plays them back.

    Without episodes a cassette is a cache: each different request has one answer. After `start_episode(key)` an answer
    belongs to the course of the episode: to the requests before it that may have changed the server, in their order.
    Among equal requests with no such request between them, the n-th gets the n-th answer that was recorded there. A
    course that was not recorded is a fault, not the answer of another course. Where an episode stands is part of its
    environment's state: forks and several environments of one task do not disturb each other.

    Answers that `HttpApi` retries (408, 429, 5xx) are not recorded.

    Args:
        path: the JSON-lines file. `record` and `auto` append to it; the last line for a request counts.
        mode: `replay` never uses the network. `record` sends every request. `auto` sends only requests that
            are not recorded yet, which is right for a service that does not change. An episode that began on the tape
            cannot go on at the server, which has not seen its beginning: that is a fault.
        inner: the transport that sends real requests; httpx's own by default.
        secret_parameters: names of query parameters whose values are never written.
        match_host: compare the server's scheme, name and port too. With False, answers of a test server are
            replayed for any other server.
        reads: methods that do not change the server. With `()`, every request of an episode may.
    Raises: ConfigError if the file cannot be read, or does not exist in `replay`.
    """

    def __init__(
        self,
        path: str | Path,
        mode: Mode = "replay",
        *,
        inner: httpx.AsyncBaseTransport | None = None,
        secret_parameters: Iterable[str] = SECRET_PARAMETERS,
        match_host: bool = True,
        reads: Iterable[str] = READS,
    ) -> None:
        if mode not in ("record", "replay", "auto"):
            raise ConfigError(f"cassette mode must be record, replay or auto, got {mode!r}")
        self.path, self.mode = Path(path), mode
        # Only `aclose` closes a transport that was passed in: others may use it too.
        self._inner = PerLoop(
            lambda: inner or httpx.AsyncHTTPTransport(limits=CONNECTIONS), aclose=None if inner else _close
        )
        self._secret_parameters = frozenset(name.lower() for name in secret_parameters)
        self._match_host = match_host
        self._reads = frozenset(method.upper() for method in reads)
        self._answers = _tape(self.path, mode)
        # Where no environment's code is running, the episode belongs to the asyncio task and those that it starts.
        self._of_task: ContextVar[list[_Episode]] = ContextVar("agentrl_cassette_episode")
        self._name = f"cassette {self.path.resolve()}"

    @property
    def offline(self) -> bool:
        """Whether no request uses the network, so that credentials are not needed."""
        return self.mode == "replay"

    def start_episode(self, key: str) -> None:
        """Begin an episode of the environment whose `start` calls this, with the id of its task.

        Outside of environments, the episode is that of the running asyncio task.
        """
        if acting_env() is None:
            self._of_task.set([_Episode(key)])
        else:
            self._store(_Episode(key))

    def _store(self, episode: _Episode) -> None:
        env = acting_env()
        if env is not None:
            episode_state(env)[self._name] = episode
        elif episode.key:
            self._of_task.get()[0] = episode

    def _load(self) -> _Episode:
        env = acting_env()
        if env is None:
            return self._of_task.get([_NO_EPISODE])[0]
        found: _Episode = episode_state(env).get(self._name, _NO_EPISODE)
        return found

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        if UNRECORDED_EXTENSION in request.extensions and not self.offline:
            # A request for a token, or one that asks whether the server answers now: no tape can answer it.
            return await self._inner.get().handle_async_request(request)
        redactor = Redactor(request.extensions.get(SECRETS_EXTENSION, ()))
        entry = self._describe(request, redactor)
        recorded = None if self.mode == "record" else self._recorded(entry)
        if recorded is None:
            return await self._record(request, entry, redactor)
        self._store(self._load().after(entry, self._reads, is_taped=True))
        return _response(recorded, request)

    async def aclose(self) -> None:
        transport = self._inner.peek()
        if transport is not None:
            self._inner.forget()
            await transport.aclose()

    def _describe(self, request: httpx.Request, redactor: Redactor) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "method": request.method,
            "url": redactor.text(str(self._plain_url(request.url))),
            "body": redactor.text(_canonical(request.content)),
        }
        return self._placed(entry)

    def _placed(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The request with its place in the episode as it stands now."""
        episode = self._load()
        return entry | {"episode": episode.key, "after": episode.course, "n": episode.number(entry)}

    def _plain_url(self, url: httpx.URL) -> httpx.URL:
        """The address with redacted secret parameters, sorted parameters, and without user and password."""
        pairs: list[tuple[str, str | int | float | bool | None]] = sorted(
            (name, REDACTED if name.lower() in self._secret_parameters else value)
            for name, value in url.params.multi_items()
        )
        plain = url.copy_with(userinfo=b"", fragment=None, query=None)
        if not self._match_host:
            plain = plain.copy_with(scheme="http", host="any", port=None)
        return plain.copy_merge_params(pairs) if pairs else plain

    def _recorded(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        """The answer on the tape; in a replay, a repeated read gets its last answer again. None if it is to be sent.

        Raises: EnvFault if there is no answer, and the request cannot be sent.
        """
        found: dict[str, Any] | None = self._answers.get(_key(entry))
        if found is None and self.mode == "replay" and entry["method"] in self._reads:
            earlier = (self._answers.get(_key({**entry, "n": n})) for n in range(entry["n"] - 1, -1, -1))
            found = next((answer for answer in earlier if answer is not None), None)
        if found is not None:
            return found
        episode = self._load()
        if self.mode == "replay" or episode.is_taped:
            raise EnvFault(self._what_is_missing(entry, episode), who="author")
        return None

    def _what_is_missing(self, entry: dict[str, Any], episode: _Episode) -> str:
        name, again = repr(str(self.path)), "record everything again with mode='record'"
        missing = f"{self.path} has no answer to {entry['method']} {entry['url']}"
        if not episode.key:
            return f"{missing}; record it with Cassette({name}, mode='auto'), or {again}"
        before = " -> ".join(episode.calls) or "nothing that changes the server"
        times = f" for the time {entry['n'] + 1}" if entry["n"] else ""
        why = ", and the server has not seen what the tape answered before" if self.mode == "auto" else ""
        place = f"{times} in episode {episode.key!r} after {before}{why}"
        return f"{missing}{place}; record this course with Cassette({name}, mode='record')"

    async def _record(self, request: httpx.Request, entry: dict[str, Any], redactor: Redactor) -> httpx.Response:
        most = request.extensions.get(MOST_BYTES_EXTENSION, MOST_BYTES)
        response = await self._inner.get().handle_async_request(request)
        try:
            content = await read_bounded(response, most)
        finally:
            await response.aclose()
        entry |= {
            "status": response.status_code,
            **_content_fields(redactor.content(content, cut_off=len(content) == most)),
        }
        entry["headers"] = {h: redactor.text(response.headers[h]) for h in _KEPT_HEADERS if h in response.headers}
        if is_retried(response.status_code):
            return httpx.Response(
                response.status_code, headers=_without_encoding(response.headers), content=content, request=request
            )
        # The place is taken when the answer arrives, so that requests sent at the same time are all kept.
        entry = self._placed(entry)
        self._store(self._load().after(entry, self._reads))
        self._answers.append(entry)
        return _response(entry, request)


@dataclass(frozen=True, slots=True)
class _Episode:
    """Where an episode stands on the tape.

    Attributes:
        key: names the episode; empty without one.
        course: a digest of the requests so far that may have changed the server.
        calls: the last of them, for messages.
        counts: how often each request was made since the last of them.
        is_taped: whether the tape answered any request.
    """

    key: str = ""
    course: str = ""
    calls: tuple[str, ...] = ()
    counts: tuple[tuple[str, int], ...] = ()
    is_taped: bool = False

    def number(self, entry: Mapping[str, Any]) -> int:
        """How many equal requests came before this one."""
        return dict(self.counts).get(_request_key(entry), 0)

    def after(self, entry: Mapping[str, Any], reads: frozenset[str], *, is_taped: bool = False) -> _Episode:
        """The episode after this request."""
        if not self.key:
            return self
        is_taped = self.is_taped or is_taped
        if entry["method"] in reads:
            counts = dict(self.counts) | {_request_key(entry): self.number(entry) + 1}
            return replace(self, counts=tuple(counts.items()), is_taped=is_taped)
        course = hashlib.sha256(f"{self.course}{_request_key(entry)}".encode()).hexdigest()[:16]
        calls = (*self.calls, f"{entry['method']} {httpx.URL(entry['url']).path}")[-MOST_CALLS:]
        return _Episode(self.key, course, calls, (), is_taped)


_NO_EPISODE = _Episode()


async def _close(transport: httpx.AsyncBaseTransport) -> None:
    await transport.aclose()


def _request_key(entry: Mapping[str, Any]) -> str:
    return json.dumps([entry["method"], entry["url"], entry["body"]])


def _key(entry: Mapping[str, Any]) -> tuple[str, str, str, int]:
    return entry["episode"], entry["after"], _request_key(entry), entry["n"]


def _canonical(content: bytes) -> str:
    """A body as text: equal JSON gives equal text; bytes that are not UTF-8 are written as base64."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(content).decode()
    try:
        equal = json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False) if text else ""
    except (ValueError, RecursionError):
        return text
    return equal if is_unicode(equal) else text


def _content_fields(content: bytes) -> dict[str, str]:
    try:
        return {"text": content.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}


def _response(entry: dict[str, Any], request: httpx.Request) -> httpx.Response:
    content = base64.b64decode(entry["base64"]) if "base64" in entry else entry["text"].encode()
    return httpx.Response(entry["status"], headers=entry["headers"], content=content, request=request)


def _without_encoding(headers: httpx.Headers) -> list[tuple[str, str]]:
    dropped = ("content-encoding", "content-length", "transfer-encoding")
    return [(name, value) for name, value in headers.multi_items() if name.lower() not in dropped]


def _tape(path: Path, mode: Mode) -> Tape:
    """The tape of a file. Raises: ConfigError if there is none to replay, or a line cannot be read."""
    if mode == "replay" and not path.exists():
        raise ConfigError(f"cassette {path} does not exist; record one with mode='record' or 'auto'")
    return Tape(path, _key, partial(_checked, path), mend=mode != "replay")


def _checked(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        entry: dict[str, Any] = json.loads(line)
        is_old = bool(entry["episode"]) and "after" not in entry
        entry.setdefault("after", "")
        _key(entry)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cassette {path}, line {number}, cannot be read: {error}; delete that line") from error
    if is_old:
        raise ConfigError(
            f"cassette {path}, line {number}: an earlier version recorded the episode {entry['episode']!r}, "
            "without the requests before each answer; delete the file, and record it again"
        )
    return entry
