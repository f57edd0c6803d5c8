"""Messages as a page shows them: plain values that a template or a script draws. Owns no HTML."""

from __future__ import annotations

import json
from typing import Any

from agentrl.messages import Message


def shown_message(message: Message) -> dict[str, Any]:
    """Role, name, text, thinking and calls of a message; each call is one text with its error."""
    calls = []
    for call in message.tool_calls:
        arguments = ", ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in call.arguments.items())
        calls.append({"text": f"{call.name}({arguments})", "error": call.error})
    return {
        "role": message.role,
        "content": message.content,
        "reasoning": message.reasoning,
        "name": message.name,
        "calls": calls,
    }
