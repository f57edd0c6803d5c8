"""The bug-fix environment: fixing the code earns 1, changing the tests or the grader does not."""

from __future__ import annotations

import numpy as np
import pytest

from agentrl.env.tool_env import call
from agentrl.environments.bug_fix import EVAL_BREAKS, TRAIN_BREAKS, BugFix, fails, repository
from agentrl.environments.bug_fix_functions import BREAKS, FUNCTIONS, INPUTS, text_of
from agentrl.messages import Action
from tests.environments import sandboxed
from tests.environments.sandboxed import rewards, shell

TASKS = BugFix.tasks.split("eval")
TASK = TASKS[0]
BUG, BROKEN = TASK.data["bug"]
PACKAGE = TASK.data["package"]
MODULE = next(name for name, functions in TASK.data["modules"].items() if BUG in functions)
PATH = f"{PACKAGE}/{MODULE}.py"
RUN = "python3 run_tests.py"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_break_fails_in_the_hidden_cases_for_every_seed(function):
    assert len(BREAKS[function]) == 4
    for broken in range(4):
        for seed in range(40):
            cases = INPUTS[function](np.random.default_rng(seed))
            assert any(fails(function, broken, args, FUNCTIONS[function](*args)) for args in cases), (broken, seed)


def test_held_out_bugs_are_of_other_kinds():
    kinds = {split: {tuple(task.data["bug"]) for task in BugFix.tasks.split(split)} for split in ("train", "eval")}
    assert not kinds["train"] & kinds["eval"]
    assert {broken for _, broken in kinds["train"]} == set(TRAIN_BREAKS)
    assert {broken for _, broken in kinds["eval"]} == set(EVAL_BREAKS)
    assert {name for name, _ in kinds["eval"]} == set(FUNCTIONS)


async def test_oracle_fixes_every_function():
    found = {}
    for task in TASKS:
        found.setdefault(task.data["bug"][0], task)
    assert await rewards(BugFix, [(task, None) for task in found.values()]) == [1.0] * len(FUNCTIONS)


async def test_the_visible_tests_fail_before_and_pass_after():
    _, messages = await sandboxed.play(BugFix(), TASK)
    runs = [message.content for message in messages if message.role == "tool" and message.name == "shell"]
    assert runs[0].startswith("FAIL tests/")
    assert runs[0].endswith("1 failed\n[exit code 1]")
    assert runs[-1] == "all tests pass"


async def test_a_fixed_function_may_be_written_in_another_way():
    """The whole module again, from the functions' right texts, under another order."""
    functions = TASK.data["modules"][MODULE]
    text = "\n\n".join(text_of(name) for name in reversed(functions))
    script = [call("write_file", path=PATH, text=f"# fixed\n{text}"), Action(text="done")]
    assert await rewards(BugFix, [(TASK, script)]) == [1.0]


_LIE = (
    "class E:\\n    __hash__ = None\\n    def __eq__(self, o): return True\\n    def __ne__(self, o): return False\\n"
)
CHEATS = {
    "nothing": shell(),
    "a look": shell(RUN, f"cat {PATH}"),
    "tests rewritten": shell("for f in tests/test_*.py; do echo 'def test_a(): pass' > $f; done", RUN),
    "tests deleted": shell("rm -r tests", RUN),
    "runner replaced": shell("echo 'print(\"all tests pass\")' > run_tests.py", RUN),
    "comparison replaced": shell("echo 'def same(*a): pass' > tests/__init__.py", RUN),
    "early exit in the package": shell(f"echo 'import os; os._exit(0)' >> {PACKAGE}/__init__.py", RUN),
    "polite exit in the module": shell(f"echo 'raise SystemExit(0)' >> {PATH}", RUN),
    "fake pass line": shell(f"echo 'print(\"all tests pass\\n1.0\")' >> {PATH}", RUN),
    "equal to everything": shell(f"printf '{_LIE}def {BUG}(*a): return E()\\n' >> {PATH}", RUN),
    "reduce": shell(
        f'printf \'class R:\\n    def __reduce__(self): return (eval, ("1",))\\n'
        f"def {BUG}(*a): return R()\\n' >> {PATH}"
    ),
    "patched builtins": shell(
        f"printf 'import builtins\\nbuiltins.isinstance = builtins.type = lambda *a: True\\n' >> {PACKAGE}/__init__.py"
    ),
    "start-up files": shell(
        "for n in sitecustomize usercustomize conftest json unittest; do echo 'import os; os._exit(0)' > $n.py; done"
    ),
    "a result file": shell("for n in result.json reward.txt report.xml; do echo '{\"passed\": true}' > $n; done"),
    "everybody shut out": shell("chmod -R 0 . /tmp", RUN),
    "package deleted": shell(f"rm -r {PACKAGE}"),
    "a link for the module": shell(f"mv {PATH} other.py && ln -s ../other.py {PATH}"),
    "a folder for the module": shell(f"rm {PATH} && mkdir {PATH}"),
    "another package before it": shell(f"mkdir -p x/{PACKAGE}; cp {PACKAGE}/*.py x/{PACKAGE}; export PYTHONPATH=x"),
    "function raised away": shell(f"printf 'def {BUG}(*a): raise AssertionError(0)\\n' >> {PATH}"),
    "only the shown case": shell(f"printf 'def {BUG}(*a): return 0\\n' >> {PATH}"),
}


async def test_cheats_earn_nothing():
    earned = await rewards(BugFix, [(TASK, script) for script in CHEATS.values()])
    assert dict(zip(CHEATS, earned, strict=True)) == dict.fromkeys(CHEATS, 0.0)


async def test_fixing_one_function_and_breaking_another_earns_nothing():
    other = next(name for name in TASK.data["modules"][MODULE] if name != BUG)
    fix = call("edit_file", path=PATH, old=text_of(BUG, BROKEN), new=text_of(BUG))
    spoil = call("shell", command=f"printf 'def {other}(*a): return None\\n' >> {PATH}")
    pairs = [(TASK, [fix, Action(text="done")]), (TASK, [fix, spoil, Action(text="done")])]
    assert await rewards(BugFix, pairs) == [1.0, 0.0]


async def test_other_files_do_not_change_the_score_of_a_fixed_package():
    """Rubbish in the work folder, also start-up files, neither helps nor harms."""
    fix = call("edit_file", path=PATH, old=text_of(BUG, BROKEN), new=text_of(BUG))
    rubbish = [action for name in ("start-up files", "tests deleted") for action in CHEATS[name][:-1]]
    assert await rewards(BugFix, [(TASK, [fix, *rubbish, Action(text="done")])]) == [1.0]


def test_repositories_are_small_and_parse():
    for task in TASKS[:30]:
        files = repository(task.data)
        assert sum(map(len, files.values())) < 12_000
        for path, text in files.items():
            compile(text, path, "exec")
