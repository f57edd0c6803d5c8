"""The parts of a request as bytes and text, and what a request cannot carry. Sends nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import httpx

from agentrl.errors import ToolError

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
_REASON_CHARS = 300


@contextmanager
def writing() -> Iterator[None]:
    """Turns the errors of writing a tool's request into a ToolError: the request is made of what the model gave."""
    try:
        yield
    except UnicodeError:
        raise ToolError("the request cannot be written: a text contains a lone surrogate (half a character)") from None
    except RecursionError:
        raise ToolError("the request cannot be written: a value is nested too deeply") from None
    except (httpx.InvalidURL, ValueError, OverflowError) as error:
        raise ToolError(f"the request cannot be written: {str(error)[:_REASON_CHARS]}") from None


def is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogates, so that it can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_header_text(text: str) -> bool:
    """Whether a text can be the value of a header: printable ASCII without blanks at its ends."""
    return text.isascii() and text.isprintable() and text == text.strip()


def header_text(name: str, value: str) -> str:
    """The value of a header. Raises: ToolError if a header cannot carry it."""
    if not is_header_text(value):
        raise ToolError(f"{name}: a header takes printable ASCII characters only, without blanks at its ends")
    return value


def body_bytes(value: Any, form: Mapping[str, str] | None) -> tuple[bytes | None, str]:
    """The bytes of a body and their content type; None and an empty text if there is none.

    Args:
        value: the value of a JSON body; None means that there is no JSON body.
        form: the fields of a urlencoded body; they count before `value`.
    Raises: ValueError or RecursionError for a value that has no JSON form; UnicodeEncodeError for a lone surrogate.
    """
    if form is not None:
        return urlencode(list(form.items())).encode(), FORM
    if value is None:
        return None, ""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(), JSON
