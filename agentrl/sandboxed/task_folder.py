"""A task of a sandboxed environment as files: request, world, tests and solution, for systems that run scripts.

Owns what a task is then, and two kinds of tests: of files, and of a function. Which system's layout they get, and where
they are written, is not decided here. A test script exits with 0 if the task is solved.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from agentrl.sandboxed.grading import Case
from agentrl.trajectory import Task

WORKDIR = "/app"
"""Where an exported task is worked on."""
_CHECK = "check.py"


@dataclass(frozen=True)
class TaskFolder:
    """A task as files.

    Attributes:
        instruction: what the agent reads.
        solution: a bash script that solves the task; it starts in the work folder.
        tests: path -> text of `check.py`, which Python runs in the work folder, and of the files next to it.
        files: path in the work folder -> content at the beginning.
    """

    instruction: str
    solution: str
    tests: Mapping[str, str]
    files: Mapping[str, bytes] = field(default_factory=dict)


@runtime_checkable
class AsTaskFolder(Protocol):
    """An environment whose tasks can be written as files."""

    def task_folder(self, task: Task) -> TaskFolder:
        """The task as files; no episode is needed."""


def files_check(wanted: Mapping[str, str], gone: Sequence[str], *, max_bytes: int) -> dict[str, str]:
    """Tests that files hold what is wanted, white space at their end aside, and that others are gone.

    Args: max_bytes: a larger file is wrong.
    """
    asked = {"wanted": dict(wanted), "gone": list(gone), "max_bytes": max_bytes}
    return {_CHECK: _FILES, "wanted.json": json.dumps(asked, indent=1, sort_keys=True) + "\n"}


def function_check(path: str, function: str, cases: Iterable[Case]) -> dict[str, str]:
    """Tests that a function of a module returns the expected values, of the same types, each in a new process.

    The expected values are removed from the disk before the module runs, but a program with the rights of the tests
    can find other ways to them: our own environment compares outside the sandbox.

    Args: path: of the module, in the work folder.
    """
    literals = "".join(f"{(case.args, case.expected)!r}\n" for case in cases)
    check = _FUNCTION.replace("@PATH@", repr(path)).replace("@FUNCTION@", repr(function))
    return {_CHECK: check, "cases.txt": literals}


_FILES = '''\
"""Exits with 0 if the files in the current folder are as wanted.json says."""

import json
import os
import stat
import sys

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "wanted.json"), encoding="utf-8") as file:
    asked = json.load(file)
for path in asked["gone"]:
    if os.path.lexists(path):
        sys.exit(path + " is still there")
for path, text in asked["wanted"].items():
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        if os.path.islink("/".join(parts[:depth])):
            sys.exit(path + " is reached through a link")
    if not os.path.lexists(path) or not stat.S_ISREG(os.lstat(path).st_mode):
        sys.exit(path + " is missing")
    if os.path.getsize(path) > asked["max_bytes"]:
        sys.exit(path + " is too large")
    with open(path, "rb") as file:
        if file.read().decode("utf-8", "replace").rstrip() != text.rstrip():
            sys.exit(path + " holds something else")
'''

_FUNCTION = '''\
"""Exits with 0 if a function returns what cases.txt says, in value and in type."""

import ast
import os
import subprocess
import sys

PATH, FUNCTION, SECONDS = @PATH@, @FUNCTION@, 5
CALL = """
import ast, sys
path, function, out = sys.argv[1:]
args = ast.literal_eval(sys.stdin.read())
space = {"__name__": "solution"}
with open(path, encoding="utf-8") as file:
    exec(compile(file.read(), path, "exec"), space)
value = repr(space[function](*args))
with open(int(out), "w") as file:
    file.write(value)
"""


def same(value, expected):
    if type(value) is not type(expected):
        return False
    if isinstance(value, (list, tuple)):
        return len(value) == len(expected) and all(map(same, value, expected))
    if isinstance(value, dict):
        return value.keys() == expected.keys() and all(same(value[key], expected[key]) for key in value)
    return value == expected


def returned(args):
    read, write = os.pipe()
    command = [sys.executable, "-I", "-c", CALL, PATH, FUNCTION, str(write)]
    try:
        done = subprocess.run(
            command, input=repr(args).encode(), pass_fds=[write], timeout=SECONDS,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
    finally:
        os.close(write)
    os.set_blocking(read, False)
    with os.fdopen(read, "rb") as file:
        return ast.literal_eval((file.read(1 << 16) or b"").decode()) if done.returncode == 0 else Ellipsis


CASES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cases.txt")
with open(CASES, encoding="utf-8") as file:
    cases = [ast.literal_eval(line) for line in file]
os.unlink(CASES)  # the function must not read what is expected of it
for args, expected in cases:
    try:
        right = same(returned(args), expected)
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError, subprocess.TimeoutExpired):
        right = False
    if not right:
        sys.exit("a case fails")
'''
