"""The file tools: list, read, write and edit files in the sandbox's work folder.

Owns the calls and the texts that the model reads. The sandbox keeps paths inside the work folder: it follows no
link and opens only regular files.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentrl.errors import ToolError
from agentrl.sandbox.base import FileInfo, Sandbox
from agentrl.tool_schema import Tool, tool
from agentrl.tools.code_results import MAX_CHARS, SandboxHolder, bounded_by_sandbox, printable, shortened

NAMES = ("list_files", "read_file", "write_file", "edit_file")
_MAX_ENTRIES = 200
_MAX_FILE_BYTES = 1 << 20


async def list_entries(sandbox: Sandbox, folder: str = "") -> str:
    """Paths below a folder, one per line; a folder ends with a slash, a file is followed by its size."""
    prefix = folder.strip("/").removeprefix("./")
    prefix = "" if prefix in ("", ".") else prefix + "/"
    entries = [entry for entry in await sandbox.entries() if entry.path.startswith(prefix)]
    if not entries:
        raise ToolError(f"there is nothing in {folder!r}") if prefix else ToolError("the work folder is empty")
    lines = [_line(entry) for entry in entries[:_MAX_ENTRIES]]
    if len(entries) > _MAX_ENTRIES:
        lines.append(f"[{len(entries) - _MAX_ENTRIES} more]")
    text: str = printable("\n".join(lines))
    return text


def _line(entry: FileInfo) -> str:
    mark = {"folder": "/", "link": " (link)", "other": " (no file)"}.get(entry.kind, f" {entry.size_bytes}")
    return entry.path + mark


async def read_text(sandbox: Sandbox, path: str) -> str:
    """The text of a file; bytes that are not UTF-8 become U+FFFD.

    Raises: SandboxError, a ToolError, for a missing file, a link, a path outside the work folder, or more than 1 MiB.
    """
    return (await sandbox.read(path, max_bytes=_MAX_FILE_BYTES)).decode("utf-8", "replace")


async def write_text(sandbox: Sandbox, path: str, text: str) -> None:
    """Write a file and create the folders above it. Raises: SandboxError, a ToolError, if the sandbox refuses."""
    await sandbox.write(path, text.encode("utf-8", "replace"))


async def edit_text(sandbox: Sandbox, path: str, old: str, new: str) -> None:
    """Replace the only occurrence of `old`. Raises: ToolError if `old` does not occur exactly once."""
    try:
        text = (await sandbox.read(path, max_bytes=_MAX_FILE_BYTES)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ToolError(f"{path} is not a text file") from error
    times = text.count(old) if old else 0
    if times != 1:
        raise ToolError(
            f"`old` occurs {times} times in {path}; it must occur once: include more of the lines around it"
        )
    await write_text(sandbox, path, text.replace(old, new))


def file_tools(*names: str, max_chars: int = MAX_CHARS) -> Sequence[Tool]:
    """The tools `list_files`, `read_file`, `write_file` and `edit_file`, to be bound to an environment's sandbox.

    Args:
        names: the tools to make; all by default.
        max_chars: most characters of a file or list that the model sees.
    Raises: ValueError for a name that is not one of the four.
    """
    unknown = set(names) - set(NAMES)
    if unknown:
        raise ValueError(f"file tools are {', '.join(NAMES)}; got {', '.join(sorted(unknown))}")
    made = {function.name: function for function in (_list(max_chars), _read(max_chars), _write(), _edit())}
    return tuple(bounded_by_sandbox(made[name]) for name in (names or NAMES))


def _list(max_chars: int) -> Tool:
    @tool
    async def list_files(self: SandboxHolder, folder: str = "") -> str:
        """List files with their sizes.

        Args:
            folder: the work folder by default.
        """
        text: str = shortened(await list_entries(await self.sandbox(), folder), max_chars)
        return text

    return Tool.of(list_files)


def _read(max_chars: int) -> Tool:
    @tool
    async def read_file(self: SandboxHolder, path: str) -> str:
        """Read a file.

        Args:
            path: for example notes/a.txt.
        """
        text: str = printable(shortened(await read_text(await self.sandbox(), path), max_chars))
        return text or "(empty)"

    return Tool.of(read_file)


def _write() -> Tool:
    @tool
    async def write_file(self: SandboxHolder, path: str, text: str) -> str:
        """Write a file, or replace it.

        Args:
            path: for example notes/a.txt.
            text: the whole content.
        """
        await write_text(await self.sandbox(), path, text)
        return "written"

    return Tool.of(write_file)


def _edit() -> Tool:
    @tool
    async def edit_file(self: SandboxHolder, path: str, old: str, new: str) -> str:
        """Replace a text that occurs once in a file.

        Args:
            path: for example notes/a.txt.
            old: the text to replace.
            new: the text to put in its place.
        """
        await edit_text(await self.sandbox(), path, old, new)
        return "edited"

    return Tool.of(edit_file)
