"""Texts of a page, as a browser may show them. Owns what is escaped beyond HTML, which Jinja escapes."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from agentrl.safe_json import for_terminal


def for_page(value: Any) -> Any:
    """What a template prints, with characters that reorder or hide text escaped: Jinja's `finalize`."""
    if isinstance(value, Markup):
        return Markup(for_terminal(str(value)))  # it was HTML before, and has no new characters of HTML
    return for_terminal(value) if isinstance(value, str) else value
