"""Record and replay for httpx: the answers of a server are written to a JSON-lines file and read from it.

Owns the file and the matching of requests. Requests match if method, address and body are equal; headers are
not compared. Secrets are removed before anything is compared or written: the credentials that `HttpApi` attaches
to the request, and the values of query parameters with a secret name.
"""

from __future__ import annotations

import base64
import json
import os
from collections import defaultdict
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import httpx

from agentrl.errors import ConfigError, EnvFault
from agentrl.tools.http_api import CONTROL_EXTENSION, SECRETS_EXTENSION, is_retried
from agentrl.wire.per_loop import PerLoop
from agentrl.wire.redaction import REDACTED, Redactor
from agentrl.wire.request_text import is_unicode

Mode = Literal["record", "replay", "auto"]
SECRET_PARAMETERS = frozenset({"api_key", "apikey", "api-key", "access_token", "token", "key", "signature", "secret"})
_KEPT_HEADERS = ("content-type", "location", "link")
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})


class Cassette(httpx.AsyncBaseTransport):
    """An httpx transport that records real answers and plays them back.

    Without episodes a cassette is a cache: each different request has one answer. After
    `start_episode(key)` it keeps an order: the n-th equal request of an episode gets the n-th answer that
    was recorded under that key, independently of other episodes. Answers that `HttpApi` retries (408, 429,
    5xx) are not recorded.

    Args:
        path: the JSON-lines file. `record` and `auto` append to it; the last line for a request counts.
        mode: `replay` never uses the network. `record` sends every request. `auto` sends only requests that
            are not recorded yet, which is right for a service that does not change.
        inner: the transport that sends real requests; httpx's own by default.
        secret_parameters: names of query parameters whose values are never written.
        match_host: compare the server's scheme, name and port too. With False, answers of a test server are
            replayed for any other server.
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
    ) -> None:
        if mode not in ("record", "replay", "auto"):
            raise ConfigError(f"cassette mode must be record, replay or auto, got {mode!r}")
        self.path, self.mode = Path(path), mode
        # Only `aclose` closes a transport that was passed in: others may use it too.
        self._inner = PerLoop(lambda: inner or httpx.AsyncHTTPTransport(), aclose=None if inner else _close)
        self._secret_parameters = frozenset(name.lower() for name in secret_parameters)
        self._match_host = match_host
        self._answers = _load(self.path, mode)
        self._episode: ContextVar[_Episode | None] = ContextVar("agentrl_cassette_episode", default=None)

    @property
    def offline(self) -> bool:
        """Whether no request uses the network, so that credentials are not needed."""
        return self.mode == "replay"

    def start_episode(self, key: str) -> None:
        """Begin an episode in the current asyncio task; call it in `start`, with the id of the episode's task."""
        self._episode.set(_Episode(key))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        if CONTROL_EXTENSION in request.extensions and not self.offline:
            # It asks whether the server answers now, so no tape can answer it.
            return await self._inner.get().handle_async_request(request)
        redactor = Redactor(request.extensions.get(SECRETS_EXTENSION, ()))
        entry = self._describe(request, redactor)
        recorded = None if self.mode == "record" else self._answers.get(_key(entry))
        if recorded is None and self.mode != "record":
            recorded = self._beyond_the_end(entry)
        if recorded is not None:
            self._number(entry, count=True)
            return _response(recorded, request)
        return await self._record(request, entry, redactor)

    async def aclose(self) -> None:
        transport = self._inner.peek()
        if transport is not None:
            self._inner.forget()
            await transport.aclose()

    def _describe(self, request: httpx.Request, redactor: Redactor) -> dict[str, Any]:
        episode = self._episode.get()
        entry: dict[str, Any] = {
            "episode": episode.key if episode else "",
            "method": request.method,
            "url": redactor.text(str(self._plain_url(request.url))),
            "body": redactor.text(_canonical(request.content)),
        }
        entry["n"] = self._number(entry)
        return entry

    def _number(self, entry: dict[str, Any], *, count: bool = False) -> int:
        """How many equal requests came before this one in the episode. `count` adds this one."""
        episode = self._episode.get()
        if episode is None:
            return 0
        number = episode.counts[_base_key(entry)]
        episode.counts[_base_key(entry)] += count
        return number

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

    def _beyond_the_end(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        """The answer for a request that is not recorded: in a replay, a repeated read gets its last answer again.

        Raises: EnvFault if there is none.
        """
        if self.mode == "auto":
            return None
        if entry["method"] in _REPEATABLE:
            for n in range(entry["n"] - 1, -1, -1):
                if (found := self._answers.get(_key({**entry, "n": n}))) is not None:
                    return found
        times = f" ({entry['n'] + 1} times in episode {entry['episode']!r})" if entry["episode"] else ""
        raise EnvFault(
            f"{self.path} has no answer to {entry['method']} {entry['url']}{times}; record it with "
            f"Cassette({str(self.path)!r}, mode='auto'), or record everything again with mode='record'",
            who="author",
        )

    async def _record(self, request: httpx.Request, entry: dict[str, Any], redactor: Redactor) -> httpx.Response:
        response = await self._inner.get().handle_async_request(request)
        try:
            content = await response.aread()
        finally:
            await response.aclose()
        entry |= {"status": response.status_code, **_content_fields(redactor.content(content))}
        entry["headers"] = {h: redactor.text(response.headers[h]) for h in _KEPT_HEADERS if h in response.headers}
        if is_retried(response.status_code):
            return httpx.Response(
                response.status_code, headers=_without_encoding(response.headers), content=content, request=request
            )
        # The number is taken when the answer arrives, so that equal requests sent at the same time are all kept.
        entry["n"] = self._number(entry, count=True)
        self._answers[_key(entry)] = entry
        _append(self.path, entry)
        return _response(entry, request)


class _Episode:
    """The key of an episode, and how often it made each request."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.counts: defaultdict[str, int] = defaultdict(int)


async def _close(transport: httpx.AsyncBaseTransport) -> None:
    await transport.aclose()


def _base_key(entry: dict[str, Any]) -> str:
    return json.dumps([entry["episode"], entry["method"], entry["url"], entry["body"]])


def _key(entry: dict[str, Any]) -> tuple[str, int]:
    return _base_key(entry), entry["n"]


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


def _append(path: Path, entry: dict[str, Any]) -> None:
    """Append one line with a single write, so that processes that share the file do not mix their lines."""
    line = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)
    except OSError as error:
        raise EnvFault(f"cassette {path} cannot be written: {error}", who="host") from error


def _load(path: Path, mode: Mode) -> dict[tuple[str, int], dict[str, Any]]:
    if not path.exists():
        if mode == "replay":
            raise ConfigError(f"cassette {path} does not exist; record one with mode='record' or 'auto'")
        return {}
    whole, _, tail = path.read_bytes().rpartition(b"\n")
    answers = {}
    for number, line in enumerate(whole.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            answers[_key(entry)] = entry
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"cassette {path}, line {number}, cannot be read: {error}; delete that line") from error
    if tail and mode != "replay":
        # A crash left an incomplete last line: remove it, so that the next line does not join it.
        os.truncate(path, len(whole) + 1 if whole else 0)
    return answers
