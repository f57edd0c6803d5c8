"""Attacks by what outlives a request: daemons, files, memory, descriptors, and what the host reads and writes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from dataclasses import replace

from agentrl.sandbox.base import Sandbox, SandboxError
from agentrl.sandbox.conformance.probes import SMALL, Ground, Probes, expect

probe = Probes()
_DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (0, 1, 2):
            os.close(number)
        os.execvp("python3", ["python3", "-c", "import time; time.sleep(60)", sys.argv[1]])
    os._exit(0)
time.sleep(float(sys.argv[2]))
"""


@probe("a daemon does not outlive the program that started it")
async def daemon_after_exit(ground: Ground) -> None:
    async with ground.sandbox() as sandbox:
        result = await sandbox.exec(["python3", "-c", _DAEMON, ground.token, "0.3"])
        expect(result.ok, f"the attack itself broke: {result.error_text}")
        await ground.expect_no_process()


@probe("a daemon does not outlive a timeout and does not delay it")
async def daemon_after_timeout(ground: Ground) -> None:
    async with ground.sandbox() as sandbox:
        started_s = time.monotonic()
        result = await sandbox.exec(["python3", "-c", _DAEMON, ground.token, "60"], limits=replace(SMALL, wall_s=0.5))
        took_s = time.monotonic() - started_s
        expect(result.status == "timeout" and took_s <= 1.0, f"{result.status} after {took_s:.2f} s")
        await ground.expect_no_process()


@probe("a background process that keeps the output open does not delay the result")
async def held_output(ground: Ground) -> None:
    async with ground.sandbox() as sandbox:
        result = await sandbox.exec(["sh", "-c", "sleep 60 & echo started"])
        expect(result.ok and result.text == "started\n" and result.wall_s < 2, f"{result.status} {result.wall_s:.1f} s")


@probe("a program that removes all permissions from its folders does not make later requests fail")
async def removed_permissions(ground: Ground) -> None:
    remove = "import os\nos.makedirs('d/e')\nopen('d/e/f', 'w').write('kept')\nos.symlink('loop', 'loop')\n"
    remove += "for path in ('d/e/f', 'd/e', 'd', '/tmp', '/work'):\n    os.chmod(path, 0)"
    async with ground.sandbox() as sandbox:
        expect((await sandbox.run_python(remove)).ok, "the attack itself broke")
        for session in (None, "s", "s"):
            result = await sandbox.run_python("print(1)", session=session)
            expect(result.text == "1\n", f"{result.status} {result.detail} {result.error_text}")
        expect((await sandbox.call("def f():\n    return 1", "f")).value == 1, "a graded call does not work")
        expect(await sandbox.read("d/e/f") == b"kept", "a file cannot be read")
        expect(
            {entry.path for entry in await sandbox.entries()} == {"d", "d/e", "d/e/f", "loop"}, "entries are missing"
        )
        saved = await sandbox.snapshot()
        await sandbox.reset()
        await sandbox.restore(saved)
        expect(await sandbox.read("d/e/f") == b"kept", "a file was not saved")
        for cwd in ("loop", "d/e/f", "x" * 300):
            try:
                result = await sandbox.exec(["true"], cwd=cwd)
                expect(False, f"{cwd[:9]!r} passed for a folder: {result.status} {result.detail}")
            except SandboxError:
                pass
        expect((await sandbox.exec(["true"], cwd="d/e")).ok, "a folder cannot be entered")


@probe("a session that starts as many processes as it can leaves enough for later requests")
async def too_many_processes(ground: Ground) -> None:
    many = "import os, time\ntry:\n    while os.fork() or time.sleep(60):\n        pass\n"
    many += "except OSError:\n    print('full')"
    async with ground.sandbox() as sandbox:
        result = await sandbox.run_python(many, session="many")
        expect(result.text == "full\n", f"the attack itself broke: {result.status} {result.detail} {result.error_text}")
        for session in (None, *(f"s{number}" for number in range(10)), None):
            result = await sandbox.run_python("print(1)", session=session)
            expect(result.text == "1\n", f"{session}: {result.status} {result.detail} {result.error_text}")
        expect((await sandbox.call("def f():\n    return 1", "f")).value == 1, "a graded call does not work")


@probe("another sandbox's files, and those from before a reset, cannot be seen")
async def other_episodes_files(ground: Ground) -> None:
    plant = f"for top in ('/work', '/tmp', '/dev/shm'):\n    open(top + '/left', 'w').write('{ground.token}')"
    look = """
import os
for top in ("/work", "/tmp", "/dev/shm", "/box", "/run", "/var/tmp"):
    for folder, _, names in os.walk(top):
        for name in names:
            print(folder, name)
"""
    async with ground.sandbox() as sandbox, ground.sandbox() as other:
        planted = await sandbox.run_python(plant)
        expect(planted.ok, planted.error_text)
        seen = await other.run_python(look)
        expect(seen.ok and not seen.stdout, f"the other sandbox sees {seen.text}")
        await sandbox.reset()
        seen = await sandbox.run_python(look)
        expect(seen.ok and not seen.stdout, f"after the reset: {seen.text}")


@probe("what one request changes in its interpreter affects no later request and no graded call")
async def poisoning(ground: Ground) -> None:
    poison = """
import builtins, json, os, sys, gc
builtins.len = lambda x: 42
json.dumps = json.loads = lambda *a, **k: "42"
for module in list(sys.modules.values()):
    for name in list(vars(module)):
        if callable(getattr(module, name)) and name in ("encode", "decode", "same_value", "write"):
            setattr(module, name, lambda *a: 42)
sys.modules.clear()
open("json.py", "w").write("dumps = loads = lambda *a, **k: '42'")
open("sitecustomize.py", "w").write("import builtins; builtins.len = lambda x: 42")
os.kill(os.getpid(), 9)
"""
    async with ground.sandbox() as sandbox:
        await sandbox.run_python(poison)
        result = await sandbox.call(
            "def f(items):\n    import json\n    return [len(items), json.dumps(1)]", "f", [[1, 2]]
        )
        expect(result.value == [2, "1"], f"the call returned {result.value!r} {result.error_text}")


@probe("the memory of a request holds nothing of earlier requests")
async def earlier_requests_memory(ground: Ground) -> None:
    scan = f"""
secret = "".join(reversed({ground.token[::-1]!r})).encode()
mine = bytes(byte ^ 1 for byte in secret)
del secret
found = 0
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
    for line in maps:
        span, rights = line.split()[:2]
        low, high = (int(end, 16) for end in span.split("-"))
        if "r" not in rights or "w" not in rights:
            continue
        try:
            memory.seek(low)
            block = memory.read(high - low)
        except (OSError, ValueError, OverflowError):
            continue
        at = block.find(b"marked-")
        while at >= 0:
            found += bytes(byte ^ 1 for byte in block[at + 7 : at + 7 + len(mine)]) == mine
            at = block.find(b"marked-", at + 1)
print(found)
"""
    async with ground.sandbox() as sandbox:
        held = await sandbox.run_python(f"x = 'marked-{ground.token}'\n{scan}")
        expect(held.ok and int(held.text) > 0, f"the scan does not find what is there: {held.text}{held.error_text}")
        text = f"x = 'marked-{ground.token}'"
        await sandbox.run_python(text, stdin=b"marked-" + ground.token.encode())
        await sandbox.run_python(text, session=f"marked-{ground.token}")
        await sandbox.exec(["true", f"marked-{ground.token}"], env={"X": f"marked-{ground.token}"})
        await sandbox.call(f"{text}\ndef f(y):\n    return y", "f", [f"marked-{ground.token}"])
        await sandbox.write("secret", f"marked-{ground.token}".encode())
        await _expect_none(sandbox, scan, "after programs")
        # Links do not travel in what is written, so a program makes them.
        await sandbox.run_python(
            f"import os\nfor i in range(9):\n    os.symlink('marked-{ground.token}', f'link{{i}}')"
        )
        await sandbox.read("secret")
        await sandbox.write("large", f"marked-{ground.token}".encode() * 50_000)
        await sandbox.read("large")
        await _expect_none(sandbox, scan, "after files were read")
        saved = await sandbox.snapshot()
        await _expect_none(sandbox, scan, "after a snapshot")
        await sandbox.restore(saved)
        await _expect_none(sandbox, scan, "after it was restored")
        await sandbox.reset()
        await _expect_none(sandbox, scan, "after a reset")


async def _expect_none(sandbox: Sandbox, scan: str, when: str) -> None:
    after = await sandbox.run_python(scan)
    expect(after.ok and after.text == "0\n", f"{when}: found {after.text.strip()} times {after.error_text}")


@probe("a program has only its own three descriptors (a graded call has one more)")
async def inherited_descriptors(ground: Ground) -> None:
    listing = "import os\nfound = sorted(int(n) for n in os.listdir('/proc/self/fd'))\n"
    async with ground.sandbox() as sandbox:
        result = await sandbox.run_python(listing + "print(found)")
        expect(result.text == "[0, 1, 2, 3]\n", f"in Python, the listing's own included: {result.text}")
        result = await sandbox.exec(["sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"])
        expect(result.text == "0 1 2 3 ", f"in a program: {result.text}")
        called = await sandbox.call("def f():\n    import os\n    return os.listdir('/proc/self/fd')", "f")
        expect(called.returned and len(called.value) == 5, f"in a call: {called.value}")


@probe("output is what was written, byte for byte")
async def bad_bytes(ground: Ground) -> None:
    content = bytes(range(256)) * 3
    async with ground.sandbox() as sandbox:
        result = await sandbox.run_python("import sys\nsys.stdout.buffer.write(bytes(range(256)) * 3)")
        expect(result.ok and result.stdout == content, f"{result.status} {result.stdout[:20]!r}")
        expect("\ufffd" in result.text, "bad bytes are not shown as such")


@probe("a program that waits for input gets end of file")
async def waiting_for_stdin(ground: Ground) -> None:
    async with ground.sandbox() as sandbox:
        result = await sandbox.run_python("input()")
        expect(result.status == "nonzero" and b"EOFError" in result.stderr, f"{result.status} {result.error_text}")
        result = await sandbox.exec(["cat"], stdin=b"given")
        expect(result.ok and result.stdout == b"given", f"{result.status} {result.stdout!r}")
        large = os.urandom(2**20)
        read = "import sys, hashlib\nprint(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
        result = await sandbox.run_python(read, stdin=large)
        expect(len(result.text) == 65, f"{result.status} {result.error_text}")


@probe("a download never follows a link and never opens a pipe or device")
async def download_tricks(ground: Ground) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as secret:
        secret.write(ground.token)
        secret.flush()
        tricks = f"""
import os, socket
os.symlink({secret.name!r}, "link")
os.symlink("/etc/passwd", "inside")
os.symlink("/", "root")
os.symlink("/proc/1/environ", "environ")
os.symlink("loop", "loop")
os.mkfifo("pipe")
socket.socket(socket.AF_UNIX).bind("socket")
os.mkdir("real"); open("real/file", "w").write("fine"); os.symlink("real", "alias")
"""
        async with ground.sandbox() as sandbox:
            made = await sandbox.run_python(tricks)
            expect(made.ok, f"the attack itself broke: {made.error_text}")
            for path in (
                "link",
                "inside",
                "root/etc/passwd",
                "environ",
                "loop",
                "pipe",
                "socket",
                "alias/file",
                "real",
            ):
                with contextlib.suppress(SandboxError):
                    content = await asyncio.wait_for(sandbox.read(path), 5)
                    expect(False, f"{path} was read: {content[:40]!r}")
            expect(await sandbox.read("real/file") == b"fine", "an ordinary file cannot be read")
            snapshot = await sandbox.snapshot()
            expect(ground.token.encode() not in snapshot.content, "a snapshot holds a file of the host")


@probe("an upload never leaves the work folder")
async def upload_traversal(ground: Ground) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with ground.sandbox() as sandbox:
            await sandbox.run_python(f"import os\nos.symlink({folder!r}, 'out')\nos.symlink('/etc', 'etc')")
            for path in ("../x", "/x", f"{folder}/x", "a/../../x", "out/x", "etc/x", "out", "..", "", "a\0b"):
                with contextlib.suppress(SandboxError):
                    await sandbox.write(path, b"here")
                    expect(False, f"{path!r} was written")
            await sandbox.write("deep/er/file", b"fine")
            expect(await sandbox.read("deep/er/file") == b"fine", "an ordinary file cannot be written")
        expect(not os.listdir(folder) and "x" not in os.listdir("/etc"), "a file was written on the host")


@probe("a folder that becomes a link while the host reads or writes in it leads nowhere")
async def swapped_folder(ground: Ground) -> None:
    swap = """
import os
os.mkdir("real"); open("real/passwd", "w").write("fine")
os.symlink("/etc", "link")
os.rename("real", "at")
while True:
    os.rename("at", "real"); os.rename("link", "at")
    os.rename("at", "link"); os.rename("real", "at")
"""
    async with ground.sandbox(replace(SMALL, wall_s=1.5)) as sandbox:
        # Requests wait for each other, but a session's thread runs on during later requests.
        started = await sandbox.run_python(
            f"import threading\nthreading.Thread(target=exec, args=({swap!r}, {{}}), daemon=True).start()", session="s"
        )
        expect(started.ok, started.error_text)
        for _ in range(200):
            with contextlib.suppress(SandboxError):
                content = await sandbox.read("at/passwd")
                expect(content in (b"fine", b"new"), f"{content[:40]!r} was read")
            with contextlib.suppress(SandboxError):
                await sandbox.write("at/passwd", b"new")


@probe("a session that is killed leaves no process, and the next one starts without its variables")
async def lost_session(ground: Ground) -> None:
    async with ground.sandbox(replace(SMALL, wall_s=1)) as sandbox:
        code = (
            f"import subprocess\nsubprocess.Popen(['python3', '-c', 'import time; time.sleep(60)', {ground.token!r}])"
        )
        await sandbox.run_python(f"{code}\nx = 1", session="s")
        await ground.expect_process()
        result = await sandbox.run_python("while True:\n    pass", session="s")
        expect(result.status == "timeout" and result.wall_s <= 1.5, f"{result.status} {result.wall_s:.2f} s")
        await ground.expect_no_process()
        result = await sandbox.run_python("x", session="s")
        expect(result.status == "nonzero" and b"NameError" in result.stderr, f"{result.status} {result.error_text}")
