"""Secrets out of texts: whatever a server echoes, no token reaches a record, a cassette or an error."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from urllib.parse import quote, quote_plus

REDACTED = "REDACTED"


class Redactor:
    """Replaces secret values, in each form in which HTTP carries them, by `REDACTED`.

    Args:
        secrets: the values; empty ones are left out.
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
