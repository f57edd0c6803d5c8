"""Function synthesis: right answers earn 1, near misses and cheats 0."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agentrl.environments.function_families import FAMILIES, LEVELS, families_of
from agentrl.environments.function_synthesis import (
    FunctionSynthesis,
    argument_of,
    as_module,
    hidden_cases,
    question,
)
from agentrl.errors import EnvFault
from agentrl.sandbox.base import CallResult
from agentrl.sandbox.pool import clear_pools
from agentrl.sandbox.values import same_value
from agentrl.sandboxed.grading import Case, passes
from agentrl.trajectory import Task


async def rewards(pairs, **options):
    """Rewards of (task, answer) pairs on one instance."""
    env = FunctionSynthesis(**options)
    earned = []
    try:
        for task, answer in pairs:
            await env.areset(seed=5, options={"task": task})
            _, reward, terminated, *_ = await env.astep(answer)
            assert terminated
            earned.append(reward)
    finally:
        await env.aclose()
        await clear_pools()
    return earned


def some_tasks(per_family=1, level=None):
    """Held-out tasks of every family."""
    found = {}
    for task in FunctionSynthesis(level=level).tasks.split("eval"):
        found.setdefault(task.data["family"], []).append(task)
    return [task for tasks in found.values() for task in tasks[:per_family]]


def solution_of(task, **changed):
    """The oracle's body, with some parameters changed."""
    family = FAMILIES[task.data["family"]]
    return family.solve({**task.data["params"], **changed}, argument_of(task.data))


def here(source, value):
    """Call a body of ours in this process."""
    namespace = {}
    exec(source, namespace)
    try:
        return namespace["f"](json.loads(json.dumps(value)))
    except IndexError as error:
        return str(error)


def test_there_are_18_families_6_a_level():
    assert [len(families_of(level)) for level in LEVELS] == [6, 6, 6]
    assert {task.data["family"] for task in some_tasks()} == set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_both_statements_of_a_family_agree_on_many_problems(name):
    family, rng = FAMILIES[name], np.random.default_rng(1)
    for _ in range(60):
        params = family.draw(rng)
        data = {"family": name, "params": params}
        source = as_module(family.solve(params, argument_of(data)), argument_of(data))
        for case in hidden_cases(data, rng):
            assert same_value(here(source, case.args[0]), case.expected), (params, case)


@pytest.mark.parametrize("name", FAMILIES)
def test_hidden_cases_tell_neighbouring_problems_apart(name):
    """A solution whose parameter is off by one fails on some case of every problem."""
    family, rng = FAMILIES[name], np.random.default_rng(2)
    for _ in range(40):
        params = family.draw(rng)
        data = {"family": name, "params": params}
        cases = hidden_cases(data, rng)
        for key, value in params.items():
            near = {**params, key: value + 1 if isinstance(value, int) else value + "q"}
            if name == "CountMultiples" and key == "b" and near["b"] % near["a"]:
                continue  # the same function: no multiple lies between
            source = as_module(family.solve(near, argument_of(data)), argument_of(data))
            answers = [here(source, case.args[0]) for case in cases]
            assert not all(same_value(a, case.expected) for a, case in zip(answers, cases, strict=True)), (params, key)


@pytest.mark.parametrize("level", [1, 2, 3])
async def test_oracle_solves_held_out_tasks(level):
    tasks = some_tasks(2, level)
    assert await rewards([(task, solution_of(task)) for task in tasks], level=level) == [1.0] * len(tasks)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_hasty_answer_is_always_wrong(name):
    family, rng = FAMILIES[name], np.random.default_rng(3)
    for _ in range(40):
        data = {"family": name, "params": family.draw(rng)}
        source = as_module(family.slip(data["params"], argument_of(data)), argument_of(data))
        cases = hidden_cases(data, rng)
        assert not all(same_value(here(source, case.args[0]), case.expected) for case in cases), data


@pytest.mark.parametrize("level", [1, 2, 3, None])
def test_no_held_out_problem_is_trained_on_under_another_name(level):
    tasks = FunctionSynthesis(level=level).tasks
    asked = {}
    for split in ("train", "eval"):
        data = [task.data for task in tasks.split(split)]
        asked[split] = {question(d).replace(f"f({argument_of(d)})", "f(_)") for d in data}
    assert not asked["train"] & asked["eval"]


def test_easy_prompts_are_short_and_hold_no_solution():
    for task in FunctionSynthesis(level=1).tasks.split("eval"):
        assert len(question(task.data)) <= 75
        assert solution_of(task).removeprefix("return ") not in question(task.data)


@pytest.mark.parametrize(
    "answer", ["", "I do not know", "42", "yes", "return", "def f(x): pass", "return None", "f = 3"]
)
async def test_doing_nothing_earns_nothing(answer):
    tasks = some_tasks()
    assert await rewards([(task, answer) for task in tasks], level=None) == [0.0] * len(tasks)


AFFINE = Task("affine", "eval", {"family": "Affine", "params": {"a": 3, "b": 2}})
DIVIDES = Task("divides", "eval", {"family": "Divides", "params": {"a": 3, "b": 2}})
FRAME = Task("frame", "eval", {"family": "Frame", "params": {"a": "a", "b": "b"}})

HONEST = [
    (AFFINE, "return {v}*3+2"),
    (AFFINE, "def f({v}):\n    return {v}*3+2"),
    (AFFINE, "def f(other):\n    print('PASS')\n    return 2 + sum([other] * 3)"),
    (AFFINE, "f = lambda {v}: 3 * {v} + 2"),
    (AFFINE, "```python\nreturn {v}*3+2\n```"),
    (AFFINE, "Here it is:\n```python\nimport math\n\ndef f({v}):\n    return int(math.fsum([{v} * 3, 2]))\n```\nDone."),
    (AFFINE, "    y = {v} * 3\n    return y + 2"),
    (FRAME, "return ''.join(['a', {v}, 'b'])"),
]


async def test_honest_solutions_earn_1_however_they_are_written():
    pairs = [(task, text.replace("{v}", argument_of(task.data))) for task, text in HONEST]
    assert await rewards(pairs, level=None) == [1.0] * len(HONEST)


CHEATS = {
    "early exit": "import os\ndef f(x):\n    os._exit(0)\n    return 1",
    "polite exit": "import sys\ndef f(x):\n    sys.exit(0)\n    return 1",
    "exit on import": "raise SystemExit(0)\ndef f(x): return 1",
    "fake pass line": "def f(x):\n    print('OK\\n1 passed\\nPASS')\n    return None",
    "equal to everything": (
        "class E:\n    def __eq__(self, o): return True\n    def __hash__(self): return 0\n"
        "    def __ne__(self, o): return False\ndef f(x): return E()"
    ),
    "int subclass": "class I(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\n"
    "def f(x): return I(x)",
    "int subclass, right value": "class I(int): pass\ndef f(x): return I(3 * x + 2)",
    "str subclass": "class S(str):\n    def __eq__(self, o): return True\n    __hash__ = str.__hash__\n"
    "def f(x): return S('x')",
    "float of the right value": "def f(x): return float(3 * x + 2)",
    "list around the right value": "def f(x): return [3 * x + 2]",
    "pickled": "class R:\n    def __reduce__(self): return (eval, ('1',))\ndef f(x): return R()",
    "patched builtins": (
        "import builtins\nfor n in ('isinstance', 'type', 'all', 'any', 'len', 'repr', 'print'):\n"
        "    setattr(builtins, n, lambda *a, **k: True)\ndef f(x): return True"
    ),
    "patched modules": (
        "import sys, json\njson.dumps = lambda *a, **k: 'true'\n"
        "for m in list(sys.modules.values()):\n"
        "    for n in ('encode', 'same_value', 'passes', '_write'):\n"
        "        if hasattr(m, n):\n            setattr(m, n, lambda *a, **k: b'true')\ndef f(x): return True"
    ),
    "frames": (
        "import sys, gc\ndef f(x):\n    g = sys._getframe()\n    seen = []\n    while g:\n"
        "        seen += [v for k, v in {**g.f_globals, **g.f_locals}.items() if 'expect' in k or 'answer' in k]\n"
        "        g = g.f_back\n"
        "    seen += [o.get('expected') for o in gc.get_objects() if type(o) is dict and 'expected' in o]\n"
        "    return seen[0] if seen else 0"
    ),
    "files": (
        "import os\nfor root in ('/work', '/tmp', '.'):\n"
        "    for n in ('result.json', 'reward.txt', 'score', 'report.xml'):\n"
        "        try: open(os.path.join(root, n), 'w').write('{\"passed\": true, \"reward\": 1.0}')\n"
        "        except OSError: pass\ndef f(x): return 0"
    ),
    "descriptors": (
        "import os\ndef f(x):\n    for fd in range(1, 64):\n"
        '        try: os.write(fd, b\'Ri1\\nOK PASS {"status": "ok", "returned": true}\')\n'
        "        except OSError: pass\n    os._exit(0)\n    return 1"
    ),
    "tracing the caller": (
        "import sys\ndef f(x):\n    sys.settrace(lambda *a: None)\n    sys._getframe(1).f_trace_opcodes = True\n"
        "    sys._getframe(1).f_locals['form'] = b'Ri1'\n    return 0"
    ),
    "at exit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x): return 0",
    "child goes on": "import os, time\ndef f(x):\n    if os.fork(): os._exit(0)\n    time.sleep(0.05)\n    return 0",
    "never ends": "def f(x):\n    while True: pass\n    return 0",
    "memory": "def f(x):\n    return len(b'x' * (1 << 40))",
    "deep value": "def f(x):\n    v = []\n    for _ in range(10**5): v = [v]\n    return v",
    "half right": "def f(x): return 3 * x + 2 if x > 0 else 0",
    "learnt by heart": "def f(x): return {0: 2, -1: -1}.get(x, 0)",
    "generator": "def f(x): yield 3 * x + 2",
    "coroutine": "async def f(x): return 3 * x + 2",
    "null byte": "return x*3+2\0",
}


async def test_cheats_earn_nothing():
    earned = await rewards([(AFFINE, text) for text in CHEATS.values()], level=None)
    assert dict(zip(CHEATS, earned, strict=True)) == dict.fromkeys(CHEATS, 0.0)


async def test_a_number_is_no_truth_value():
    v = argument_of(DIVIDES.data)
    pairs = [(DIVIDES, f"return ({v} + 2) % 3 == 0"), (DIVIDES, f"return int(({v} + 2) % 3 == 0)")]
    assert await rewards(pairs, level=None) == [1.0, 0.0]


async def test_expected_values_never_enter_the_sandbox():
    """Whatever is sent is the source, the function's name and the inputs."""

    class Recorder:
        def __init__(self):
            self.sent = []

        async def call(self, source, function, args, *, limits):
            self.sent.append((source, function, args))
            return CallResult("ok", 0, value=90_210, returned=True)

    recorder = Recorder()
    cases = [Case((1,), 90_210), (Case((2,), 90_210))]
    assert await passes(recorder, "def f(x): return 1", "f", cases)
    assert "90210" not in repr(recorder.sent)
    assert recorder.sent == [("def f(x): return 1", "f", (1,)), ("def f(x): return 1", "f", (2,))]


@pytest.mark.parametrize("status", ["timeout", "oom", "limit", "nonzero"])
async def test_only_a_proper_end_counts(status):
    class Ended:
        async def call(self, *args, **kwargs):
            return CallResult(status, 0, value=7, returned=True)

    assert await passes(Ended(), "", "f", [Case((1,), 7)]) is False


async def test_a_broken_sandbox_is_a_fault_and_no_verdict():
    class Broken:
        async def call(self, *args, **kwargs):
            return CallResult("infra", detail="the worker is gone")

    with pytest.raises(EnvFault, match="the worker is gone"):
        await passes(Broken(), "", "f", [Case((1,), 7)])


def test_unknown_levels_are_refused():
    with pytest.raises(ValueError, match="level must be"):
        FunctionSynthesis(level=4)
