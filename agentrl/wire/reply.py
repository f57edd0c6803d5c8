"""The answer of a server, and how a model reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass

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


def decode(content: bytes, content_type: str, charset: str | None) -> str:
    """The text of a body, which has no lone surrogates; for an image and the like, its kind and size.

    Args:
        charset: as the server names it; None and unknown ones mean UTF-8.
    """
    kind = content_type.split("/")[0]
    if kind in ("image", "audio", "video") or content_type in ("application/octet-stream", "application/pdf"):
        return f"<{content_type}, {len(content)} bytes>"
    try:
        # Some of Python's encodings decode to lone surrogates.
        return content.decode(charset or "utf-8", errors="replace").encode(errors="replace").decode()
    except (LookupError, ValueError):  # the server names no encoding of text
        return content.decode("utf-8", errors="replace")
