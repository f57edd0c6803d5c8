"""The `python` tool: runs code in the sandbox, each call as a new program or all calls in one notebook session."""

from __future__ import annotations

from agentrl.sandbox.base import ExecResult, Sandbox
from agentrl.tool_schema import Tool, tool
from agentrl.tools.code_results import MAX_CHARS, SandboxHolder, bounded_by_sandbox, limits_of, read_result


async def run_code(
    sandbox: Sandbox, code: str, *, session: str | None = None, wall_s: float | None = None
) -> ExecResult:
    """Run Python code.

    Args:
        session: name of the session whose variables the code shares; None runs it as a new program.
        wall_s: most seconds; the sandbox's own limit by default.
    Raises: SandboxError, which is a ToolError, for code that cannot be sent; SandboxFault if the sandbox failed.
    """
    return (await sandbox.run_python(code, session=session, limits=limits_of(sandbox, wall_s))).checked()


def python_tool(*, notebook: bool = False, wall_s: float | None = None, max_chars: int = MAX_CHARS) -> Tool:
    """The tool `python(code)`, to be bound to an environment's sandbox.

    Args:
        notebook: keep variables between calls, and show the value of a last expression.
        wall_s: most seconds of a call; the sandbox's own limit by default.
        max_chars: most characters of the output that the model sees.
    """
    code_tool = _notebook(wall_s, max_chars) if notebook else _fresh(wall_s, max_chars)
    made: Tool = bounded_by_sandbox(code_tool)
    return made


def _fresh(wall_s: float | None, max_chars: int) -> Tool:
    @tool
    async def python(self: SandboxHolder, code: str) -> str:
        """Run a Python program in the work folder; print what you want to see.

        Args:
            code: the program.
        """
        text: str = read_result(await run_code(await self.sandbox(), code, wall_s=wall_s), max_chars)
        return text

    return Tool.of(python)


def _notebook(wall_s: float | None, max_chars: int) -> Tool:
    @tool
    async def python(self: SandboxHolder, code: str) -> str:
        """Run a notebook cell; variables stay, and the value of a last expression is shown.

        Args:
            code: the cell.
        """
        limits = limits_of(await self.sandbox(), wall_s)
        text: str = read_result(await self.run_cell(code, limits), max_chars)
        return text

    return Tool.of(python)
