"""What a model could do in a sandbox to have its losing episode discarded. Hostile: never without isolation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agentrl.env.tool_env import call
from agentrl.environments.bug_fix import BugFix
from agentrl.environments.data_analysis import DataAnalysis
from agentrl.environments.function_synthesis import FunctionSynthesis
from agentrl.environments.terminal import Terminal
from agentrl.messages import Action, ToolCall
from agentrl.policy.scripted import ScriptedPolicy
from agentrl.rollout.episode import run_episode

SHORT = replace(Terminal.sandbox_limits, wall_s=2.0, cpu_s=2.0)


class ShortTerminal(Terminal):
    """With little time, so that programs that wait for its end are quick."""

    sandbox_limits = SHORT


class ShortNotebook(DataAnalysis):
    """With little time."""

    sandbox_limits = SHORT


@dataclass(frozen=True)
class Attack:
    """Actions, after which the model gives up, or the answer that it gives instead."""

    make: type
    actions: Sequence[Action] = ()
    answer: str = "I give up"


FOLDERS = """
import os
for _ in range(140):
    os.mkdir("a")
    os.chdir("a")
"""
LONG_NAMES = """
import os
for _ in range(120):
    os.mkdir(b"\\xff" * 250)
    os.chdir(b"\\xff" * 250)
for number in range(3900):
    try:
        os.close(os.open(b"\\xff" * 240 + str(number).encode(), os.O_CREAT | os.O_WRONLY))
    except OSError:
        break
"""
MAPPINGS = """
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
for _ in range(30):
    if os.fork() == 0:
        break
for number in range(60000):
    if libc.mmap(None, 4096, number & 1, 0x22, -1, 0) in (None, 2**64 - 1):
        break
time.sleep(60)
"""
BUFFERS = """
import os, socket, time
try:
    os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"0")
except OSError:
    pass
for _ in range(10):
    if os.fork() == 0:
        break
kept = []
try:
    for _ in range(240):
        kept += socket.socketpair()
        for end in kept[-2:]:
            end.setblocking(False)
            try:
                while True:
                    end.send(b"x" * 65536)
            except BlockingIOError:
                pass
except OSError:
    pass
time.sleep(5)
"""
IN_FLIGHT = """
import os, socket, time
end, _other = socket.socketpair()
end.setblocking(False)
pipe, _ = os.pipe()
try:
    while True:
        socket.send_fds(end, [b"x"], [pipe] * 200)
except OSError:
    pass
"""
PROCESSES = """
import os, time
for _ in range(200):
    try:
        if os.fork() == 0:
            time.sleep(99)
    except OSError:
        break
"""
FULL_DISK = "for i in $(seq 5000); do truncate -s 33000000 f$i || break; done; head -c 80000000 /dev/zero > big"
NO_MODULES = "for d in shop core base kit lab plain; do rm -rf $d; {} $d; done"


def shell(*commands: str) -> list[Action]:
    return [call("shell", command=command) for command in commands]


def program(code: str) -> list[Action]:
    return shell(f"python3 - <<'XEOF'\n{code}\nXEOF")


def cells(*codes: str) -> list[Action]:
    return [call("python", code=code) for code in codes]


def calls(count: int, command: str) -> list[Action]:
    return [Action(tool_calls=tuple(ToolCall("shell", {"command": command}, f"c{n}") for n in range(count)))]


def function(code: str) -> str:
    return f"```python\n{code}\n```"


ATTACKS = {
    "deep folders": Attack(Terminal, program(FOLDERS)),
    "long names that are no UTF-8": Attack(Terminal, program(LONG_NAMES)),
    "many mappings": Attack(ShortTerminal, program(MAPPINGS)),
    "socket buffers": Attack(Terminal, program(BUFFERS)),
    "socket buffers in a notebook": Attack(DataAnalysis, cells(BUFFERS, "1")),
    "socket buffers in a call": Attack(FunctionSynthesis, answer=function(f"{BUFFERS}\ndef f(*a): return 0")),
    "descriptors in flight": Attack(ShortTerminal, program(IN_FLIGHT)),
    "descriptors in flight in a notebook": Attack(ShortNotebook, cells(IN_FLIGHT, "1")),
    "a path of 70 KB": Attack(BugFix, [call("read_file", path="a" * 70000)]),
    "a path of emoji": Attack(BugFix, [call("read_file", path="\U0001f600" * 6000)]),
    "a path of 24 KB to write": Attack(BugFix, [call("write_file", path="é" * 12000, text="x")]),
    "a path of 35,000 folders": Attack(BugFix, [call("edit_file", path="x/" * 35000, old="a", new="b")]),
    "a path of 2,000 folders": Attack(BugFix, [call("write_file", path="x/" * 2000 + "x", text="x")]),
    "a name of 256 bytes": Attack(BugFix, [call("write_file", path="a" * 256, text="x")]),
    "a path with NUL": Attack(BugFix, [call("read_file", path="a\0b")]),
    "half a surrogate in a path": Attack(BugFix, [call("read_file", path="a\ud800b")]),
    "half a surrogate in a text": Attack(BugFix, [call("write_file", path="a", text="a\ud800b")]),
    "half a surrogate in a command": Attack(Terminal, shell("echo \ud800")),
    "half a surrogate in code": Attack(DataAnalysis, cells('x = "\ud800"\nprint(x)')),
    "half a surrogate in an answer": Attack(FunctionSynthesis, answer=function('def f(*a): return "\ud800"')),
    "NUL in code": Attack(DataAnalysis, cells('x = "\0"')),
    "a command of 3 MB": Attack(Terminal, shell("echo " + "a" * (3 << 20))),
    "deep code": Attack(DataAnalysis, cells("(" * 100_000 + "1" + ")" * 100_000)),
    "a killed session": Attack(DataAnalysis, cells("import os; os.kill(os.getpid(), 9)", "1")),
    "closed descriptors": Attack(DataAnalysis, cells("import os\nos.closerange(0, 100)", "1")),
    "forged answers": Attack(
        DataAnalysis,
        cells(
            "import os\nfor fd in range(3, 8):\n  try: os.write(fd, b'\\xff' * 3000)\n  except OSError: pass", "1", "2"
        ),
    ),
    "another reader of the code": Attack(
        ShortNotebook,
        cells(
            "import os, threading\ndef read():\n  while True:\n    try: os.read(4, 100)\n    except OSError: pass\n"
            "threading.Thread(target=read, daemon=True).start()",
            "1",
            "2",
        ),
    ),
    "a stopped session": Attack(DataAnalysis, cells("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", "1")),
    "processes of a session": Attack(DataAnalysis, cells(PROCESSES, "1")),
    "a full disk": Attack(ShortTerminal, shell(FULL_DISK)),
    "more calls in a turn than time for one": Attack(ShortTerminal, calls(8, "sleep 0.5")),
    "slow calls in a turn": Attack(ShortTerminal, calls(3, "sleep 30")),
    "no permissions": Attack(BugFix, shell("chmod -R 000 . ; chmod 000 /work")),
    "modules that are links": Attack(BugFix, shell(NO_MODULES.format("ln -s /proc/self"))),
    "modules that are pipes": Attack(BugFix, shell(NO_MODULES.format("mkfifo"))),
    "an endless value": Attack(FunctionSynthesis, answer=function("def f(*a): return ['x' * (1 << 20)] * 64")),
    "a forged value of equal hashes": Attack(
        FunctionSynthesis,
        answer=function(
            "import os\ndef f(*a):\n    P = 2**61 - 1\n"
            "    b = b'Rs25000:' + b''.join(b'i%x;' % (i * P) for i in range(25000))\n"
            "    while b: b = b[os.write(3, b):]\n    os._exit(0)"
        ),
    ),
    "a value of equal hashes": Attack(
        FunctionSynthesis, answer=function("def f(*a): return {i * (2**61 - 1) for i in range(3000)}")
    ),
}


async def played(attack: Attack, backend: str):
    """The trajectory of a model that attacks and then gives up."""
    env = attack.make(backend=backend)
    try:
        task = env.tasks.split("eval")[0]
        return await run_episode(env, ScriptedPolicy([*attack.actions, Action(text=attack.answer)]), task, 1)
    finally:
        await env.aclose()
