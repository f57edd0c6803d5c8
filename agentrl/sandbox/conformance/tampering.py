"""Wrong solutions that try to earn a reward from a graded call. Owns the tricks, and an honest solution to compare."""

from __future__ import annotations

from agentrl.sandbox.base import Sandbox
from agentrl.sandbox.conformance.probes import Ground, Probes, expect
from agentrl.sandbox.values import PlainValue, same_value

probe = Probes()
_CASES: tuple[tuple[list[PlainValue], PlainValue], ...] = (
    ([123456789, 987654321], 1111111110),
    ([10**12, -3], 999999999997),
    ([271828, 314159], 585987),
)
"""Two arguments, and their sum."""
_EARLY = {
    "exits at once": "import os\nos._exit(0)",
    "exits politely": "import sys\nsys.exit(0)",
    "exits in the function": "import os\ndef add(a, b):\n    os._exit(0)",
    "kills itself": "import os\ndef add(a, b):\n    os.kill(os.getpid(), 9)",
    "prints what a runner prints": "def add(a, b):\n    print('3 passed in 0.01s\\nOK\\nPASS\\nRi7;')",
    "raises success": "class Passed(Exception): pass\ndef add(a, b):\n    raise Passed('all tests passed')",
    "raises SystemExit": "def add(a, b):\n    raise SystemExit(0)",
}
_EQUAL = """
class E({base}):
    __eq__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __hash__ = lambda self: 0
def add(a, b):
    return {value}
"""
_TYPES = {
    "returns what equals everything": _EQUAL.format(base="object", value="E()"),
    "returns an int that equals everything": _EQUAL.format(base="int", value="E(0)"),
    "returns a str that equals everything": _EQUAL.format(base="str", value="E('7')"),
    "returns a float that equals everything": _EQUAL.format(base="float", value="E(7)"),
    "hides it in a list": _EQUAL.format(base="object", value="[E()]"),
    "hides it in a key": _EQUAL.format(base="str", value="{E('x'): 1}"),
    "pickles into code": """
import os
class E:
    __reduce__ = lambda self: (os.system, ("true",))
def add(a, b):
    return E()
""",
    "claims another class": """
class E:
    __class__ = property(lambda self: int)
    __int__ = __index__ = lambda self: 7
def add(a, b):
    return E()
""",
    "returns nearly the type": "def add(a, b):\n    return float(a + b)",
    "returns a text of it": "def add(a, b):\n    return str(a + b)",
    "returns True": "def add(a, b):\n    return True",
    "returns many": "def add(a, b):\n    return [a, b, a + b]",
    "returns no number": "def add(a, b):\n    return float('nan')",
}
_REACHING = {
    "patches the runner": """
import sys
for name, module in list(sys.modules.items()):
    for key, item in list(vars(module).items()):
        if callable(item) and key in ("encode", "decode", "_write", "dumps", "run_call", "same_value"):
            setattr(module, key, lambda *a, **k: b"T")
def add(a, b):
    return True
""",
    "patches builtins": """
import builtins
builtins.type = lambda x: int
builtins.isinstance = lambda *a: True
builtins.len = lambda x: 1
def add(a, b):
    return "7"
""",
    "reads frames for the answer": """
import gc, sys
def add(a, b):
    frame, seen = sys._getframe(), []
    while frame:
        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
            if type(value) is int and value not in (a, b):
                seen.append(value)
            if isinstance(value, dict):
                seen += [v for k, v in value.items() if k in ("expected", "answer", "result", "want")]
        frame = frame.f_back
    for item in gc.get_objects():
        if isinstance(item, dict) and ("expected" in item or "answer" in item):
            seen.append(item.get("expected", item.get("answer")))
    return max((item for item in seen if type(item) is int), default=None)
""",
    "writes frames of its own": """
import os
def add(a, b):
    for fd in range(3, 64):
        try:
            os.write(fd, b"RT")
        except OSError:
            pass
    os._exit(0)
""",
    "writes a second answer": """
import os
def add(a, b):
    for fd in range(3, 64):
        try:
            os.write(fd, b"Ri0;Ri0;")
        except OSError:
            pass
    return 0
""",
    "writes a result file": """
def add(a, b):
    for name in ("result.json", "result.txt", "/tmp/result", "reward.txt", "score"):
        try:
            open(name, "w").write('{"passed": true, "score": 1.0, "reward": 1.0}')
        except OSError:
            pass
""",
    "rewrites the tests": """
import glob
def add(a, b):
    for name in glob.glob("**/*", recursive=True):
        try:
            open(name, "w").write("")
        except OSError:
            pass
""",
    "never ends": "def add(a, b):\n    while True:\n        pass",
    "answers in a thread": """
import threading
def add(a, b):
    threading.Thread(target=lambda: None).start()
""",
}


async def _score(sandbox: Sandbox, source: str) -> float:
    """The share of cases that a solution gets right, as an environment would grade it."""
    right = 0
    for args, expected in _CASES:
        result = await sandbox.call(source, "add", args)
        right += result.returned and same_value(result.value, expected)
    return right / len(_CASES)


async def _expect_nothing(ground: Ground, tricks: dict[str, str]) -> None:
    async with ground.sandbox(files={"test_add.py": b"def test(): assert add(1, 2) == 3\n"}) as sandbox:
        for name, source in tricks.items():
            score = await _score(sandbox, source)
            expect(score == 0, f"a solution that {name} scores {score}")
            honest = await _score(sandbox, "def add(a, b):\n    return a + b")
            expect(honest == 1, f"after one that {name}, an honest solution scores {honest}")


@probe("a solution that ends early, prints or raises earns nothing")
async def early_ends(ground: Ground) -> None:
    await _expect_nothing(ground, _EARLY)


@probe("values are compared on the host as plain types, so overriding comparison, hash or pickling earns nothing")
async def false_types(ground: Ground) -> None:
    await _expect_nothing(ground, _TYPES)


@probe("a solution that changes or reads what is around it earns nothing: the expected values are not there")
async def reaching_out(ground: Ground) -> None:
    await _expect_nothing(ground, _REACHING)
