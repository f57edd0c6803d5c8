"""Where tools that run code find their sandbox, and how the model reads what a program did.

Owns the text of a result; limits and walls belong to the sandbox. A failure of the sandbox itself is an
`EnvFault`; a timeout, too much memory or another limit is text that the model sees.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from agentrl.sandbox.base import ExecResult, Sandbox, SandboxLimits
from agentrl.tool_schema import Tool

MAX_CHARS = 4000
_HEAD = 2 / 3
_KEPT_CONTROLS = "\n\t"


class SandboxHolder(Protocol):
    """What a tool is bound to: an environment, or anything else that holds a sandbox."""

    async def sandbox(self) -> Sandbox:
        """The sandbox of the running episode, as the episode left it."""

    async def run_cell(self, code: str, limits: SandboxLimits | None = None) -> ExecResult:
        """Run a cell of the episode's notebook. Raises: SandboxError, SandboxFault."""


class Held:
    """A holder of one sandbox that somebody else opens and closes: `shell_tool().bound_to(Held(sandbox))`."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def sandbox(self) -> Sandbox:
        return self._sandbox

    async def run_cell(self, code: str, limits: SandboxLimits | None = None) -> ExecResult:
        result = await self._sandbox.run_python(code, session="main", limits=limits)
        return result.checked()


def limits_of(sandbox: Sandbox, wall_s: float | None) -> SandboxLimits | None:
    """The sandbox's limits with a shorter wall time; None leaves them as they are."""
    return None if wall_s is None else replace(sandbox.spec.limits, wall_s=wall_s)


def own_timeout(tool: Tool, wall_s: float | None) -> Tool:
    """A tool that is given time to start a sandbox and to end a program before its call counts as a fault."""
    return replace(tool, timeout_s=60.0 + (wall_s or 0.0))


def read_result(result: ExecResult, max_chars: int = MAX_CHARS) -> str:
    """What a program printed and how it ended, without anything that differs between two runs of it.

    Args:
        result: of `exec` or `run_python`.
        max_chars: of the whole output; the middle of a longer one is left out.
    Raises: SandboxFault (an EnvFault) where the sandbox failed.
    """
    result = result.checked()
    parts = [text for text in (result.text.rstrip(), result.error_text.rstrip()) if text]
    output = printable(shortened("\n".join(parts), max_chars))
    if result.truncated:
        output += "\n[output cut off]"
    end = _end(result)
    return "\n".join(part for part in (output, end) if part) or "(no output)"


def _end(result: ExecResult) -> str:
    if result.status == "ok":
        return ""
    if result.status == "nonzero":
        return f"[exit code {result.exit_code}]" if result.exit_code is not None else f"[{result.detail or 'ended'}]"
    name = {"timeout": "timed out", "oom": "out of memory", "limit": "limit reached"}[result.status]
    return f"[{name}: {result.detail}]" if result.detail else f"[{name}]"


def shortened(text: str, max_chars: int) -> str:
    """Text of at most about max_chars: its beginning and its end, and how much is missing between."""
    if len(text) <= max_chars:
        return text
    head = int(max_chars * _HEAD)
    tail = max_chars - head
    return f"{text[:head]}\n[{len(text) - max_chars} characters left out]\n{text[len(text) - tail :]}"


def printable(text: str) -> str:
    """Text without control characters but newline and tab: `\\r\\n` becomes a newline, others U+FFFD."""
    text = text.replace("\r\n", "\n")
    if text.isprintable():
        return text
    return "".join(c if c in _KEPT_CONTROLS or not _is_control(c) else "\ufffd" for c in text)


def _is_control(character: str) -> bool:
    code = ord(character)
    return code < 32 or 127 <= code < 160 or 0xD800 <= code < 0xE000
