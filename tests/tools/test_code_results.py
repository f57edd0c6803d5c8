"""The tools that run code: what the model reads, which failures are faults, and which paths are refused."""

from __future__ import annotations

import pytest

from agentrl.env.execution import run as run_tool
from agentrl.errors import EnvFault, ToolError
from agentrl.sandbox.base import ExecResult, SandboxLimits, SandboxSpec
from agentrl.sandbox.registry import make_backend
from agentrl.tools.code_results import Held, printable, read_result, shortened
from agentrl.tools.python_session import python_tool
from agentrl.tools.shell import shell_tool
from agentrl.tools.work_files import file_tools

LIMITS = SandboxLimits(wall_s=1.0, cpu_s=1.0, memory_bytes=200 << 20, output_bytes=4096)


async def use(*steps, limits=LIMITS):
    """Run (tool, arguments) one after the other in one sandbox; what the model reads, or the ToolError."""
    told = []
    async with await make_backend().start(SandboxSpec(limits=limits)) as sandbox:
        for made, arguments in steps:
            bound = made.bound_to(Held(sandbox))
            try:
                told.append(await run_tool(bound, bound.validate(arguments), 30.0))
            except ToolError as error:
                told.append(error)
    return told


def files(name):
    return file_tools(name)[0]


async def test_shell_says_what_was_printed_and_how_it_ended():
    shell = shell_tool()
    told = await use(
        (shell, {"command": "echo out; echo err >&2"}),
        (shell, {"command": "exit 3"}),
        (shell, {"command": "true"}),
        (shell, {"command": "echo x > f; cd /; pwd"}),
        (shell, {"command": "cat f; pwd"}),
        (shell, {"command": "kill -9 $$"}),
        (shell, {"command": "printf 'a\\033[31mred\\0\\r\\n\\xff'"}),
    )
    assert told == [
        "out\nerr",
        "[exit code 3]",
        "(no output)",
        "/",
        "x\n/work",
        "[exit code 137]",
        "a\ufffd[31mred\ufffd\n\ufffd",
    ]


async def test_timeouts_and_limits_are_text_for_the_model():
    told = await use(
        (shell_tool(wall_s=0.3), {"command": "echo before; sleep 20"}),
        (python_tool(), {"code": "x = b'x' * (1 << 40)"}),
        (python_tool(), {"code": "print('still here')"}),
    )
    assert told[0].startswith("before\n[timed out")
    assert "out of memory" in told[1]
    assert told[2] == "still here"


async def test_long_output_keeps_its_beginning_and_its_end():
    (told,) = await use((shell_tool(max_chars=100), {"command": "seq 1 500"}))
    assert told.startswith("1\n2\n3\n")
    assert told.endswith("499\n500")
    assert "characters left out" in told
    assert len(told) < 150


async def test_output_beyond_the_sandbox_limit_says_that_it_was_cut():
    (told,) = await use((shell_tool(), {"command": "head -c 100000 /dev/zero | tr '\\0' a"}))
    assert told.endswith("[output cut off]")
    assert len(told) < 4200


async def test_python_is_fresh_or_a_notebook():
    fresh, notebook = python_tool(), python_tool(notebook=True)
    told = await use(
        (fresh, {"code": "x = 1\nx"}),
        (fresh, {"code": "print(x)"}),
        (notebook, {"code": "x = 1\nx"}),
        (notebook, {"code": "x + 1"}),
        (notebook, {"code": "raise SystemExit(0)"}),
        (notebook, {"code": "x + 2"}),
    )
    assert told[0] == "(no output)"
    assert told[1].endswith("NameError: name 'x' is not defined\n[exit code 1]")
    assert (told[2], told[3], told[5]) == ("1", "2", "3")


async def test_files_are_written_read_edited_and_listed():
    told = await use(
        (files("write_file"), {"path": "d/a.txt", "text": "one two\nthree"}),
        (files("edit_file"), {"path": "d/a.txt", "old": "two", "new": "2"}),
        (files("read_file"), {"path": "d/a.txt"}),
        (files("list_files"), {}),
        (files("list_files"), {"folder": "./d/"}),
        (files("edit_file"), {"path": "d/a.txt", "old": "e", "new": "E"}),
        (files("edit_file"), {"path": "d/a.txt", "old": "", "new": "E"}),
        (files("write_file"), {"path": "empty", "text": ""}),
        (files("read_file"), {"path": "empty"}),
    )
    assert told[:5] == ["written", "edited", "one 2\nthree", "d/\nd/a.txt 11", "d/a.txt 11"]
    assert "occurs 3 times in d/a.txt" in str(told[5])
    assert "occurs 0 times" in str(told[6])
    assert told[8] == "(empty)"


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "", ".", "missing", "link", "up/passwd", "d/../../x", "a\0b"])
async def test_paths_that_lead_elsewhere_are_refused(path):
    prepare = (shell_tool(), {"command": "ln -s /etc/hostname link; ln -s /etc up; mkdir d"})
    told = await use(
        prepare, (files("read_file"), {"path": path}), (files("edit_file"), {"path": path, "old": "a", "new": ""})
    )
    assert isinstance(told[1], ToolError)
    assert isinstance(told[2], ToolError)


@pytest.mark.parametrize("path", ["../x", "", ".", "up/x", "link", "a\0b"])
async def test_nothing_is_written_elsewhere(path):
    prepare = (shell_tool(), {"command": "ln -s /tmp up; echo kept > /work/target; ln -s target link"})
    told = await use(
        prepare,
        (files("write_file"), {"path": path, "text": "mine"}),
        (shell_tool(), {"command": "cat target; ls /tmp"}),
    )
    assert isinstance(told[1], ToolError) or path == "link"
    assert told[2] == "kept"


async def test_a_file_that_is_no_text_is_shown_but_not_edited():
    prepare = (shell_tool(), {"command": "printf 'a\\xffb' > raw"})
    told = await use(
        prepare, (files("read_file"), {"path": "raw"}), (files("edit_file"), {"path": "raw", "old": "a", "new": ""})
    )
    assert told[1] == "a\ufffdb"
    assert str(told[2]) == "raw is not a text file"


def test_unknown_file_tools_are_refused():
    with pytest.raises(ValueError, match="file tools are"):
        file_tools("delete_file")
    assert [made.name for made in file_tools()] == ["list_files", "read_file", "write_file", "edit_file"]


def test_a_failure_of_the_sandbox_is_a_fault():
    with pytest.raises(EnvFault, match="the worker is gone"):
        read_result(ExecResult("infra", detail="the worker is gone"))


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (ExecResult("ok", 0, b"a\n"), "a"),
        (ExecResult("ok", 0, b"", b"warned\n", wall_s=0.123), "warned"),
        (ExecResult("nonzero", 2, b"a"), "a\n[exit code 2]"),
        (ExecResult("timeout", None, detail="more than 2 s"), "[timed out: more than 2 s]"),
        (ExecResult("oom", 137), "[out of memory]"),
        (ExecResult("lost", 137, b"x", detail="the sandbox is lost"), "x\n[the sandbox is lost]"),
        (ExecResult("limit", 1, b"x", truncated=True, detail="cpu"), "x\n[output cut off]\n[limit reached: cpu]"),
    ],
)
def test_how_a_result_reads(result, text):
    assert read_result(result) == text


def test_shortened_and_printable_by_hand():
    assert shortened("abcdefghi", 9) == "abcdefghi"
    assert shortened("abcdefghijkl", 9) == "abcdef\n[3 characters left out]\njkl"
    assert printable("a\tb\r\nc\x07\x9b\ud800é") == "a\tb\nc\ufffd\ufffd\ufffdé"
