"""Removes secrets from texts, so that a server that echoes a key puts it into no record, cassette or error."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from urllib.parse import quote, quote_plus

REDACTED = "REDACTED"


class Redactor:
    """Replaces secrets by `REDACTED`: plain, percent-encoded and base64-encoded.

    Args:
        secrets: the secret values; empty ones are ignored.
    """

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        self._forms = sorted(forms, key=len, reverse=True)

    def text(self, value: str) -> str:
        """The text without secrets."""
        for form in self._forms:
            value = value.replace(form, REDACTED)
        return value

    def content(self, value: bytes) -> bytes:
        """The bytes without secrets."""
        for form in self._forms:
            value = value.replace(form.encode(), REDACTED.encode())
        return value


def _forms(secret: str) -> tuple[str, ...]:
    encoded = base64.b64encode(secret.encode()).decode()
    return secret, quote(secret, safe=""), quote(secret), quote_plus(secret), encoded, encoded.rstrip("=")
