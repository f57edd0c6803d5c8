"""The `shell` tool: runs a command in the sandbox's work folder. Isolation belongs to the sandbox."""

from __future__ import annotations

from collections.abc import Mapping

from agentrl.sandbox.base import Sandbox
from agentrl.tool_schema import Tool, tool
from agentrl.tools.code_results import MAX_CHARS, SandboxHolder, bounded_by_sandbox, limits_of, read_result


async def run_command(
    sandbox: Sandbox,
    command: str,
    *,
    wall_s: float | None = None,
    max_chars: int = MAX_CHARS,
    cwd: str = ".",
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a shell command to its end and return the text that the model reads.

    Args: cwd, env: as for `Sandbox.exec`.
    Raises: SandboxError, which is a ToolError, for a command that cannot be sent; SandboxFault if the sandbox failed.
    """
    result = await sandbox.exec(["bash", "-c", command], cwd=cwd, env=env, limits=limits_of(sandbox, wall_s))
    text: str = read_result(result, max_chars)
    return text


def shell_tool(*, wall_s: float | None = None, max_chars: int = MAX_CHARS) -> Tool:
    """The tool `shell(command)`, to be bound to an environment's sandbox.

    Each call starts a new shell in the work folder: files stay, variables and background programs do not.

    Args:
        wall_s: most seconds of a command; the sandbox's own limit by default.
        max_chars: most characters of the output that the model sees.
    """

    @tool
    async def shell(self: SandboxHolder, command: str) -> str:
        """Run a bash command in the work folder.

        Args:
            command: for example ls -l.
        """
        return await run_command(await self.sandbox(), command, wall_s=wall_s, max_chars=max_chars)

    made: Tool = bounded_by_sandbox(Tool.of(shell))
    return made
