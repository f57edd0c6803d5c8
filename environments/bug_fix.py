"""Find and fix the bug of a small generated package. Owns the repository and its grading.

The host runs hidden tests on the package's own modules alone, in an empty folder. What the model did to the visible
tests, to the interpreter's start-up files or to other files of the work folder does not count. The demonstrator `hasty`
looks at one of the three modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from agentrl.env.registry import register
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import call
from agentrl.env.toolbox import Offered
from agentrl.environments.bug_fix_functions import BREAKS, FUNCTIONS, INPUTS, text_of
from agentrl.messages import Action, Message
from agentrl.sandbox.base import Sandbox, SandboxError, SandboxLimits
from agentrl.sandbox.values import same_value
from agentrl.sandboxed.env import SandboxEnv
from agentrl.sandboxed.grading import CASE_LIMITS, Case, passes
from agentrl.tools.shell import shell_tool
from agentrl.tools.work_files import file_tools
from agentrl.trajectory import Task

PACKAGES = ("shop", "core", "base", "kit", "lab", "plain")
MODULES = ("texts", "numbers", "records", "parts", "checks", "rules")
MODULES_PER_PACKAGE = 3
FUNCTIONS_PER_MODULE = 2
TRAIN_BREAKS, EVAL_BREAKS = (0, 1, 2), (3,)
RUN_TESTS = "python3 run_tests.py"
CASES_OF_OTHER_FUNCTIONS = 3
_MAX_BYTES = 1 << 16
_SAME = """def same(what, value, expected):
    if value != expected:
        raise AssertionError(f"{what} is {value!r}, expected {expected!r}")
"""
# No bytecode: Python would take a file that is edited within a second, to the same size, for the old one.
_RUNNER = """import importlib
import pathlib
import sys

sys.dont_write_bytecode = True
failed = 0
for path in sorted(pathlib.Path("tests").glob("test_*.py")):
    for name, test in sorted(vars(importlib.import_module(f"tests.{path.stem}")).items()):
        if name.startswith("test_"):
            try:
                test()
            except Exception as error:
                failed += 1
                print(f"FAIL {path}: {name}: {type(error).__name__}: {error}")
print(f"{failed} failed" if failed else "all tests pass")
sys.exit(failed > 0)
"""


def make_task(rng: np.random.Generator, breaks: Sequence[int]) -> dict[str, Any]:
    """Draw a package and a bug: `modules` maps a module to its functions, `bug` names a function and its break."""
    count = MODULES_PER_PACKAGE * FUNCTIONS_PER_MODULE
    functions = [str(name) for name in rng.choice(list(FUNCTIONS), count, replace=False)]
    modules = [str(name) for name in rng.choice(MODULES, MODULES_PER_PACKAGE, replace=False)]
    held = {m: functions[i * FUNCTIONS_PER_MODULE : (i + 1) * FUNCTIONS_PER_MODULE] for i, m in enumerate(modules)}
    bug = functions[int(rng.integers(count))]
    return {
        "package": PACKAGES[int(rng.integers(len(PACKAGES)))],
        "modules": held,
        "bug": [bug, int(rng.choice(breaks))],
        "seed": int(rng.integers(2**31)),
    }


def make_splits() -> dict[str, list[Task]]:
    """Training and held-out tasks, which have different bugs."""
    rng = np.random.default_rng(51_001)
    sizes = {"train": (2000, TRAIN_BREAKS), "eval": (200, EVAL_BREAKS)}
    return {
        split: [Task(f"{split}-{index}", split, make_task(rng, breaks)) for index in range(size)]
        for split, (size, breaks) in sizes.items()
    }


def repository(data: Mapping[str, Any]) -> dict[str, str]:
    """The files of a task: the package with its bug, and tests that find it."""
    package, (bug, broken) = data["package"], data["bug"]
    rng = np.random.default_rng(data["seed"])
    files = {"run_tests.py": _RUNNER, f"{package}/__init__.py": "", "tests/__init__.py": _SAME}
    for module, functions in data["modules"].items():
        texts = [text_of(name, broken if name == bug else None) for name in functions]
        files[f"{package}/{module}.py"] = "\n\n".join(texts)
        files[f"tests/test_{module}.py"] = _tests(package, module, functions, data["bug"], rng)
    return files


def _tests(package: str, module: str, functions: Sequence[str], bug: Sequence[Any], rng: np.random.Generator) -> str:
    lines = [f"from {package}.{module} import {', '.join(sorted(functions))}", "from tests import same"]
    for name in functions:
        shown = _shown(name, bug[1] if name == bug[0] else None, rng)
        lines += ["", "", f"def test_{name}():"]
        for args, value in shown:
            made = f"{name}({', '.join(map(repr, args))})"
            lines.append(f"    same({made!r}, {made}, {value!r})")
    return "\n".join(lines) + "\n"


def _shown(function: str, broken: int | None, rng: np.random.Generator) -> list[tuple[tuple[Any, ...], Any]]:
    """Two cases for the visible tests; one of them fails on the broken function."""
    cases = [(args, FUNCTIONS[function](*args)) for args in INPUTS[function](rng)]
    telling = [case for case in cases if broken is not None and fails(function, broken, *case)]
    chosen = [telling[int(rng.integers(len(telling)))]] if telling else []
    others = [case for case in cases if case not in chosen]
    return [*chosen, *(others[int(i)] for i in rng.choice(len(others), 2 - len(chosen), replace=False))]


def fails(function: str, broken: int, args: tuple[Any, ...], value: Any) -> bool:
    """Whether the broken function fails in a case."""
    try:
        return not same_value(_broken(function, broken)(*args), value)
    except Exception:  # a broken function may raise anything
        return True


@cache
def _broken(function: str, broken: int) -> Any:
    namespace: dict[str, Any] = {}
    exec(text_of(function, broken), namespace)
    return namespace[function]


@register("agentrl/BugFix-v0", max_turns=12)
class BugFix(SandboxEnv):
    """Find and fix the bug of a small package with a failing test-suite.

    Reward: 1 if every function of the package, as it is in its files at the end, passes hidden tests; otherwise 0.
    Held-out bugs are of kinds that training does not have.

    Args:
        backend, backend_options: as for `SandboxEnv`.
    """

    tasks = Tasks(make_splits)
    rubric = Rubric({"correct": 1.0})
    demonstrators = ("oracle", "hasty")
    sandbox_limits: ClassVar[SandboxLimits] = SandboxLimits(wall_s=20.0, cpu_s=10.0, output_bytes=64 * 1024)
    extra_tools: Sequence[Offered] = (
        shell_tool(max_chars=3000),
        *file_tools("read_file", "write_file", "edit_file"),
    )

    async def start(self, task: Task) -> str:
        self.put_files({path: text.encode() for path, text in repository(task.data).items()})
        return (
            f"The tests of the package {task.data['package']} fail: one function has a bug. The tests are right. "
            f"Mend the function. Run the tests with: {RUN_TESTS}. Say done at the end."
        )

    async def score(self, answer: str | None) -> dict[str, float]:
        if not self.tool_stats:
            return {"correct": 0.0}
        modules = await self._modules_of(await self.sandbox())
        if modules is None:
            return {"correct": 0.0}
        sandbox = await self.start_over()
        for path, text in modules.items():
            await sandbox.write(path, text)
        package = self.task.data["package"]
        for module, function, cases in self._hidden():
            source = f"from {package}.{module} import {function}"
            if not await passes(sandbox, source, function, cases, limits=CASE_LIMITS):
                return {"correct": 0.0}
        return {"correct": 1.0}

    async def _modules_of(self, sandbox: Sandbox) -> dict[str, bytes] | None:
        """The package's modules as they are now; None if one is missing or is not an ordinary file."""
        package = self.task.data["package"]
        paths = [f"{package}/{name}.py" for name in ("__init__", *self.task.data["modules"])]
        try:
            return {path: await sandbox.read(path, max_bytes=_MAX_BYTES) for path in paths}
        except SandboxError:
            return None

    def _hidden(self) -> Iterator[tuple[str, str, list[Case]]]:
        """Module, function and cases of every function, the broken one first."""
        held = [(module, name) for module, names in self.task.data["modules"].items() for name in names]
        bug = self.task.data["bug"][0]
        for module, name in sorted(held, key=lambda pair: pair[1] != bug):
            cases = [Case(args, FUNCTIONS[name](*args)) for args in INPUTS[name](self.np_random)]
            yield module, name, cases if name == bug else cases[-CASES_OF_OTHER_FUNCTIONS:]

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Run the tests, read the module, fix it, run the tests again."""
        run = call("shell", command=RUN_TESTS)
        bug = self.task.data["bug"][0]
        module = next(name for name, functions in self.task.data["modules"].items() if bug in functions)
        plan = (run, self._read(module), self._fix(module), run, Action(text="done"))
        return plan[sum(message.role == "tool" for message in messages)]

    def hasty(self, messages: Sequence[Message]) -> Action:
        """A wrong habit: look at the first module without running the tests, and be done if it has no bug."""
        module, functions = next(iter(self.task.data["modules"].items()))
        fix = (self._fix(module),) if self.task.data["bug"][0] in functions else ()
        plan: tuple[Action, ...] = (self._read(module), *fix, Action(text="done"))
        return plan[sum(message.role == "tool" for message in messages)]

    def _read(self, module: str) -> Action:
        return call("read_file", path=f"{self.task.data['package']}/{module}.py")

    def _fix(self, module: str) -> Action:
        """The edit of the module that has the bug: of the changed part alone where it occurs once."""
        path = f"{self.task.data['package']}/{module}.py"
        bug, broken = self.task.data["bug"]
        old, new = BREAKS[bug][broken]
        if new and repository(self.task.data)[path].count(new) == 1:
            return call("edit_file", path=path, old=new, new=old)
        return call("edit_file", path=path, old=text_of(bug, broken), new=text_of(bug))
