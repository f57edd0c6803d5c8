"""Files that a model gives: as a text, or as base64; and the body of a form that holds them.

The boundary of such a form is made of its content, so that the same arguments give the same bytes, as tapes need.
Source: RFC 7578; WHATWG HTML, "multipart form data" (how names are escaped).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentrl.errors import ToolError

MULTIPART, BYTES = "multipart/form-data", "application/octet-stream"
_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})


def file_schema(schema: Mapping[str, Any], *, named: bool = True) -> dict[str, Any]:
    """How a model gives a file: its text, or an object.

    Args:
        schema: what the document says of it; its description is kept.
        named: the file has a name.
    """
    members = {
        "text": {"type": "string"},
        "base64": {"type": "string", "description": "the content in base64, if it is no text"},
        **({"filename": {"type": "string"}} if named else {}),
    }
    said = " ".join(str(schema.get("description") or "").split())
    form = "the content as a text, or an object with `text` or `base64`" + (" and a `filename`" if named else "")
    whole = {"type": "object", "properties": members}
    return {"anyOf": [{"type": "string"}, whole], "description": f"{said} ({form})" if said else form}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form; `filename` is None for a field that is no file."""

    name: str
    content: bytes
    media: str = ""
    filename: str | None = None


def content_of(shown: str, value: Any) -> bytes:
    """The bytes of a file. Raises: ToolError that names the argument `shown`."""
    if not isinstance(value, Mapping):
        return str(value).encode()
    given = [word for word in ("text", "base64") if value.get(word) is not None]
    if len(given) != 1:
        raise ToolError(f"{shown}: give either text or base64, got {' and '.join(given) or 'neither'}")
    if given == ["text"]:
        return str(value["text"]).encode()
    try:
        return base64.b64decode("".join(str(value["base64"]).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ToolError(f"{shown}.base64 is no base64: {error}") from None


def file_part(shown: str, name: str, value: Any, media: str) -> Part:
    """The part of one file; a file without a name has that of its field."""
    filename = str((value.get("filename") if isinstance(value, Mapping) else None) or name)
    if not filename.isprintable():
        raise ToolError(f"{shown}.filename must have no control characters")
    return Part(name, content_of(shown, value), media, filename)


def written(parts: list[Part]) -> tuple[bytes, str]:
    """The bytes of a form and their content type."""
    digest = hashlib.sha256()
    for part in parts:
        for text in (part.name, part.filename or "", part.media):
            digest.update(f"{len(text)} {text}".encode())
        digest.update(part.content)
    boundary = f"agentrl-{digest.hexdigest()[:40]}"
    pieces = [piece for part in parts for piece in (_head(part, boundary), part.content, b"\r\n")]
    return b"".join([*pieces, f"--{boundary}--\r\n".encode()]), f"{MULTIPART}; boundary={boundary}"


def _head(part: Part, boundary: str) -> bytes:
    about = f'--{boundary}\r\nContent-Disposition: form-data; name="{part.name.translate(_ESCAPES)}"'
    if part.filename is not None:
        about += f'; filename="{part.filename.translate(_ESCAPES)}"'
    if part.media:
        about += f"\r\nContent-Type: {part.media}"
    return f"{about}\r\n\r\n".encode()
