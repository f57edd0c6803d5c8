"""One argument of a tool and its place in a request; which content types are JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentrl.tools.openapi.document import LONGEST_NAME

_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]+")

Place = Literal["path", "query", "header", "cookie", "member", "body", "field", "text", "part", "bytes"]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a tool, with its place and its name in the request.

    Attributes:
        place: of a body, `member` is one of a JSON object, `field` one of a form, `part` one of a form that may hold
            files; `body`, `text` and `bytes` are the whole of it.
        as_json: it is written as JSON text (a parameter with `content`).
        media: content type of a part; empty for a text that needs none.
        is_file: it is a file: see `agentrl.tools.openapi.files`.
    """

    name: str
    place: Place
    wire_name: str
    schema: Any
    required: bool
    style: str = "form"
    explode: bool = True
    reserved: bool = False
    as_json: bool = False
    media: str = ""
    is_file: bool = False


def shown_name(name: str) -> str:
    return _NO_NAME.sub("_", name).strip("_")[:LONGEST_NAME] or "value"


def as_schema(schema: Any) -> Mapping[str, Any]:
    return schema if isinstance(schema, Mapping) else {}


def media_type(kind: Any) -> str:
    return str(kind).split(";")[0].strip().lower()


def is_json(kind: Any) -> bool:
    """Whether a content type is JSON; `*/*` may be."""
    kind = media_type(kind)
    return kind in ("application/json", "*/*", "application/*") or kind.endswith("+json")
