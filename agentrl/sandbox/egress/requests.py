"""Reading what a program asks of the proxy: CONNECT, or one plain HTTP request. Decides nothing.

The parser is strict on purpose: a request that could be read in two ways is refused. A plain request is rebuilt for
the server: its Host header names the server that it is sent to, and exactly one request and its body are sent per
connection.
Source: RFC 9112 (HTTP/1.1 messages), RFC 9110 section 9.3.6 (CONNECT).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from agentrl.sandbox.allow_list import Target, split_authority

MAX_HEAD_BYTES = 16 * 1024
_MAX_LINE_BYTES = 256
_REQUEST = re.compile(rb"([A-Z]{1,20}) ([\x21-\x7e]{1,8000}) HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)")
_URL = re.compile(r"http://([^/?#]*)([/?][^#]*)?", re.IGNORECASE)
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[\t\x20-\x7e]*)?")
_FOR_US = {
    b"connection", b"host", b"keep-alive", b"proxy-authorization", b"proxy-connection", b"te", b"trailer", b"upgrade",
}  # fmt: skip


class Refusal(Exception):
    """A request that is not forwarded, with the status and text of the answer, and further lines for its body."""

    def __init__(self, status: HTTPStatus, text: str, more: str = "") -> None:
        super().__init__(text)
        self.status, self._more = status, more

    @property
    def answer(self) -> bytes:
        """The HTTP response. Its first line holds the text too, because many clients show nothing else."""
        body = f"{self}\n{self._more}\n".encode("ascii", "replace")
        head = (
            f"HTTP/1.1 {int(self.status)} {self.status.phrase}: {self}\r\n"
            f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode("ascii", "replace") + body


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        target: where it wants to connect to.
        tunnel: whether it is a CONNECT, after which all bytes are carried in both directions.
        head: for a plain request, what the server gets before the body.
        body_bytes: for a plain request, the size of its body.
        chunked: for a plain request, whether its body comes in chunks instead.
    """

    target: Target
    tunnel: bool
    head: bytes = b""
    body_bytes: int = 0
    chunked: bool = False


class Client(Protocol):
    """What a program sends, read in pieces."""

    async def piece(self, most: int) -> bytes:
        """The next bytes, at most `most`; empty at the end."""

    async def until(self, mark: bytes, most: int) -> bytes:
        """Everything up to a mark, without the mark.

        Raises: Refusal if the first `most` bytes do not hold it; EOFError at the end.
        """


def _bad(text: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, text)


async def read_request(client: Client) -> Request:
    """The first request of a connection; its body is left unread.

    Raises: Refusal; EOFError if the program closes the connection before the end of the request.
    """
    first, *lines = (await client.until(b"\r\n\r\n", MAX_HEAD_BYTES)).split(b"\r\n")
    found = _REQUEST.fullmatch(first)
    if found is None:
        raise _bad("this is a proxy for HTTP/1.1, and that is no request line of it")
    method, where, version = found[1].decode(), found[2].decode(), found[3].decode()
    fields = [_field(line) for line in lines]
    if method == "CONNECT":
        return Request(_target(where, None), tunnel=True)
    url = _URL.fullmatch(where)
    if url is None:
        raise _bad("this is a proxy: it takes CONNECT host:port, or a whole http:// address in the request line")
    target, path = _target(url[1], 80), url[2] or "/"
    path = path if path.startswith("/") else f"/{path}"
    body_bytes, chunked = _framing(fields, version)
    host = str(target).removesuffix(":80")
    kept = [b"%s: %s\r\n" % field for field in fields if field[0].lower() not in _FOR_US]
    start = f"{method} {path} HTTP/1.{version}\r\nHost: {host}\r\n".encode("ascii")
    return Request(target, False, start + b"".join(kept) + b"Connection: close\r\n\r\n", body_bytes, chunked)


def _field(line: bytes) -> tuple[bytes, bytes]:
    found = _FIELD.fullmatch(line)
    if found is None:
        raise _bad("a header line that is none")
    return found[1], found[2].strip(b" \t")  # a pattern for this takes time that grows with the square of the blanks


def _target(authority: str, port: int | None) -> Target:
    try:
        host, given = split_authority(authority)
    except ValueError as error:
        raise _bad(f"where to? {error}") from error
    if given is None and port is None:
        raise _bad("CONNECT needs host:port")
    return Target(host, given or port or 0)


def _framing(fields: list[tuple[bytes, bytes]], version: str) -> tuple[int, bool]:
    """Size of the body, and whether it comes in chunks; a request may say only one of the two, and once."""
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    codings = [value.lower() for name, value in fields if name.lower() == b"transfer-encoding"]
    if codings:
        if codings != [b"chunked"] or lengths or version == "0":
            raise _bad("a body may have one Content-Length, or else Transfer-Encoding: chunked")
        return 0, True
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(value) for value in lengths):
        raise _bad("a body may have one Content-Length, a number")
    return (int(lengths[0]) if lengths else 0), False


async def copy_body(client: Client, request: Request, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Send the body of a plain request to the server, and not a byte more.

    Raises: Refusal for malformed chunks; EOFError if the body ends too early.
    """
    await _copy(client, request.body_bytes, send)
    size = 1 if request.chunked else 0
    while size:
        found = _CHUNK_SIZE.fullmatch(await client.until(b"\r\n", _MAX_LINE_BYTES))
        if found is None:
            raise _bad("a chunk without a size")
        size = int(found[1], 16)
        await send(b"%x\r\n" % size)
        await _copy(client, size, send)
        # Trailing fields after the last chunk are refused.
        if await client.until(b"\r\n", _MAX_LINE_BYTES):
            raise _bad("a chunk that does not end where it says")
        await send(b"\r\n")


async def _copy(client: Client, size: int, send: Callable[[bytes], Awaitable[None]]) -> None:
    while size:
        piece = await client.piece(size)
        if not piece:
            raise EOFError
        size -= len(piece)
        await send(piece)
