"""How tools that run code get their sandbox, and the text in which the model reads the result of a program.

Owns that text. Limits and isolation belong to the sandbox. A failure of the sandbox itself is an `EnvFault`; if a
program reaches a limit (time, memory) or brings the sandbox down, the model reads so. What the sandbox refuses is a
`SandboxError`, which is a `ToolError`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Protocol

from agentrl.sandbox.base import ExecResult, Sandbox, SandboxLimits
from agentrl.tool_schema import Tool

MAX_CHARS = 4000
_HEAD = 2 / 3
_KEPT_CONTROLS = "\n\t"


class SandboxHolder(Protocol):
    """The object that a tool is bound to: an environment, or another object with a sandbox."""

    async def sandbox(self) -> Sandbox:
        """The sandbox of the running episode, with the files that the episode has written so far."""

    async def run_cell(self, code: str, limits: SandboxLimits | None = None) -> ExecResult:
        """Run a cell of the episode's notebook. Raises: SandboxError, SandboxFault."""


class Held:
    """Holds one sandbox, which the caller opens and closes: `shell_tool().bound_to(Held(sandbox))`."""

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


def bounded_by_sandbox(tool: Tool) -> Tool:
    """The tool without a timeout of its own.

    The sandbox bounds every request, and the time that a call waits for earlier ones must not make it fail.
    """
    return replace(tool, timeout_s=math.inf)


def read_result(result: ExecResult, max_chars: int = MAX_CHARS) -> str:
    """The text of a result: the program's output and how it ended. It holds no times, so that runs can be compared.

    Args:
        result: what `exec` or `run_python` returned.
        max_chars: most characters of output; the middle of a longer output is left out.
    Raises: SandboxFault (an EnvFault) if the sandbox failed.
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
    if result.status == "lost":
        return f"[{result.detail}]"
    name = {"timeout": "timed out", "oom": "out of memory", "limit": "limit reached"}[result.status]
    return f"[{name}: {result.detail}]" if result.detail else f"[{name}]"


def shortened(text: str, max_chars: int) -> str:
    """The text; if it is longer than `max_chars`, its beginning, a line that counts what is left out, and its end."""
    if len(text) <= max_chars:
        return text
    head = int(max_chars * _HEAD)
    tail = max_chars - head
    return f"{text[:head]}\n[{len(text) - max_chars} characters left out]\n{text[len(text) - tail :]}"


def printable(text: str) -> str:
    """The text without control characters: `\\r\\n` becomes a newline, all others except newline and tab U+FFFD."""
    text = text.replace("\r\n", "\n")
    if text.isprintable():
        return text
    return "".join(c if c in _KEPT_CONTROLS or not _is_control(c) else "\ufffd" for c in text)


def _is_control(character: str) -> bool:
    code = ord(character)
    return code < 32 or 127 <= code < 160 or 0xD800 <= code < 0xE000
