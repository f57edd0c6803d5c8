"""The answer of a server: read within a bound, decoded, and as a model reads it."""

from __future__ import annotations

import codecs
import json
import time
import zlib
from dataclasses import dataclass
from typing import Any

import httpx

from agentrl.wire.request_text import is_unicode


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer of a server.

    Attributes:
        status: HTTP status.
        text: the body without secrets; its beginning if `cut_off`.
        content_type: without parameters, in lower case.
        cut_off: whether the body is longer than `HttpSettings.max_response_bytes`.
    """

    status: int
    text: str
    content_type: str = ""
    cut_off: bool = False


def reply_text(reply: Reply) -> str:
    """An answer as the model reads it: JSON in compact form, other text unchanged."""
    if reply.cut_off:
        return f"{reply.text} [cut off]"
    if not reply.text:
        return "ok"
    if reply.content_type == "application/json" or reply.content_type.endswith("+json"):
        try:
            compact = json.dumps(json.loads(reply.text), ensure_ascii=False, separators=(",", ":"))
        except (ValueError, RecursionError):
            return reply.text
        # An escape such as \ud800 stays an escape: as a character it could not be written.
        return compact if is_unicode(compact) else reply.text
    return reply.text


async def read_bounded(response: httpx.Response, most: int) -> bytes:
    """The body of a response that was sent with `stream=True`, and at most `most` bytes of it.

    A compressed body is never unpacked further than that: a few kilobytes can stand for gigabytes.

    Raises: httpx.DecodingError for a broken body, and for a compression other than gzip and deflate.
    """
    if response.is_stream_consumed:  # a transport that made its answer in memory
        return response.content[:most]
    body = _Body(response, most)
    async for part in response.aiter_raw():
        if body.is_full_after(part):
            break
    return body.content


def read_bounded_blocking(response: httpx.Response, most: int, timeout_s: float) -> bytes:
    """As `read_bounded`, of a blocking client. Raises: httpx.ReadTimeout if the whole of it takes too long, too."""
    deadline_s = time.monotonic() + timeout_s
    body = _Body(response, most)
    for part in response.iter_raw():
        if body.is_full_after(part):
            break
        if time.monotonic() > deadline_s:
            raise httpx.ReadTimeout(f"it took longer than {timeout_s:g} s")
    return body.content


class _Body:
    """Collects the parts of a body, unpacked, up to a bound."""

    def __init__(self, response: httpx.Response, most: int) -> None:
        self._unpack = _unpacker(response.headers.get("content-encoding", "").strip().lower())
        self._most, self._content = most, bytearray()

    def is_full_after(self, part: bytes) -> bool:
        """Add a part, and say whether the bound is reached."""
        self._content += part if self._unpack is None else self._unpack(part, self._most - len(self._content))
        return len(self._content) >= self._most

    @property
    def content(self) -> bytes:
        return bytes(self._content[: self._most])


class _Unpacker:
    """Unpacks gzip, or deflate with and without a zlib header, in parts of bounded size."""

    def __init__(self) -> None:
        self._head = b""
        self._stream: Any = None

    def __call__(self, part: bytes, most: int) -> bytes:
        if self._stream is None:
            self._head += part
            if len(self._head) < 2:
                return b""
            part, with_header = self._head, self._head[:2] == b"\x1f\x8b" or _is_zlib(self._head)
            self._stream = zlib.decompressobj(zlib.MAX_WBITS | 32 if with_header else -zlib.MAX_WBITS)
        try:
            unpacked: bytes = self._stream.decompress(part, most)
        except zlib.error as error:
            raise httpx.DecodingError(str(error)) from error
        return unpacked


def _is_zlib(head: bytes) -> bool:
    """Source: RFC 1950, section 2.2."""
    return head[0] & 15 == 8 and (head[0] * 256 + head[1]) % 31 == 0


def _unpacker(encoding: str) -> _Unpacker | None:
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _Unpacker()
    raise httpx.DecodingError(f"the answer is compressed in a way that was not asked for: {encoding[:40]!r}")


def decode(content: bytes, content_type: str, charset: str | None) -> str:
    """The text of a body, which has no lone surrogates; for an image and the like, its kind and size.

    Args:
        charset: as the server names it. None and any that is not used for web pages mean UTF-8: Python also knows
            codecs that are no character sets, take quadratic time (punycode), or write a text in escapes.
    """
    kind = content_type.split("/")[0]
    if kind in ("image", "audio", "video") or content_type in ("application/octet-stream", "application/pdf"):
        return f"<{content_type}, {len(content)} bytes>"
    # Some of Python's encodings decode to lone surrogates.
    return content.decode(_codec(charset), errors="replace").encode(errors="replace").decode()


def _codec(charset: str | None) -> str:
    if charset is None or len(charset) > _LONGEST_CHARSET or not charset.isascii():
        return "utf-8"
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):
        return "utf-8"
    return name if name in _CHARSETS or name.startswith(("iso8859-", "cp125")) else "utf-8"


_LONGEST_CHARSET = 40
# The character sets of web pages, as Python calls them. Source: WHATWG, Encoding Standard, section 4.2.
_CHARSETS = frozenset(
    (
        *("utf-8", "utf-8-sig", "ascii", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"),
        *("cp866", "koi8-r", "koi8-u", "mac-roman", "mac-cyrillic", "gb2312", "gbk", "gb18030", "big5", "big5hkscs"),
        *("cp950", "euc_jp", "shift_jis", "cp932", "iso2022_jp", "euc_kr", "cp949", "cp874", "tis-620"),
    )
)
