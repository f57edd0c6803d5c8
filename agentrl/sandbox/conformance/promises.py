"""What a sandbox promises to honest programs: results, sessions, files, snapshots, order of requests. No attacks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from agentrl.sandbox.base import Network, SandboxError, SandboxFault, SandboxSpec
from agentrl.sandbox.conformance.probes import SMALL, Ground, Probes, expect

probe = Probes(harmless=True)


@probe("exit codes, both streams and signals come back as they were")
async def programs(ground: Ground) -> None:
    async with ground.sandbox() as sandbox:
        result = await sandbox.exec(["sh", "-c", "echo out; echo err >&2; exit 3"])
        expect((result.status, result.exit_code) == ("nonzero", 3), f"{result.status} {result.exit_code}")
        expect((result.stdout, result.stderr) == (b"out\n", b"err\n"), f"{result.stdout!r} {result.stderr!r}")
        result = await sandbox.exec(["sh", "-c", "kill -9 $$"])
        expect((result.status, result.exit_code) == ("nonzero", 137), f"killed: {result.status} {result.exit_code}")
        result = await sandbox.exec(["no-such-program"])
        expect((result.status, result.exit_code) == ("nonzero", 127), f"missing: {result.status} {result.exit_code}")
        result = await sandbox.exec(["sh", "-c", "exit 125"])
        expect((result.status, result.exit_code) == ("nonzero", 125), f"125: {result.status} {result.exit_code}")


@probe("a folder, variables and input reach the program; unknown folders and bad words are refused")
async def surroundings(ground: Ground) -> None:
    async with ground.sandbox(env={"A": "spec", "B": "spec"}, files={"in/x": b"1"}) as sandbox:
        result = await sandbox.exec(
            ["sh", "-c", "pwd; echo $A $B; cat; ls"], stdin=b"given\n", cwd="in", env={"B": "own"}
        )
        expect(result.text.splitlines()[1:] == ["spec own", "given", "x"], result.text + result.error_text)
        expect(result.text.startswith("/") and result.text.splitlines()[0].endswith("/in"), result.text)
        for argv, cwd in ((["true"], "missing"), (["true"], "../.."), (["true"], "/etc"), ([], "."), (["a\0b"], ".")):
            try:
                await sandbox.exec(argv, cwd=cwd)
                expect(False, f"{argv} in {cwd!r} was not refused")
            except SandboxError:
                pass
        expect((await sandbox.exec(["true"])).ok, "it does not work after a refusal")


@probe("Python runs as from a file: traceback, exit code, exit handlers, modules of the work folder")
async def python(ground: Ground) -> None:
    async with ground.sandbox(files={"mine.py": b"x = 5"}) as sandbox:
        result = await sandbox.run_python("import mine\nprint(mine.x, __name__)")
        expect(result.ok and result.stdout == b"5 __main__\n", f"{result.text}{result.error_text}")
        result = await sandbox.run_python("def f():\n    return 1 / 0\nf()")
        expect(result.status == "nonzero" and result.exit_code == 1, f"{result.status} {result.exit_code}")
        expect(b"line 2, in f" in result.stderr and b"return 1 / 0" in result.stderr, result.error_text)
        result = await sandbox.run_python("import atexit, sys\natexit.register(print, 'bye')\nsys.exit(4)")
        expect((result.exit_code, result.text) == (4, "bye\n"), f"{result.exit_code} {result.text}")
        result = await sandbox.run_python("def f(:")
        expect(result.status == "nonzero" and b"SyntaxError" in result.stderr, result.error_text)
        result = await sandbox.run_python("import threading\nthreading.Timer(0.1, print, ['late']).start()")
        expect(result.text == "late\n", f"a thread was not waited for: {result.text!r}")


@probe("requests, sessions and processes draw different random numbers; a seed gives the numbers it always gives")
async def randomness(ground: Ground) -> None:
    draw = "import os, random\nprint(random.getrandbits(64), flush=True)\n"
    fork = "if os.fork() == 0:\n    print(random.getrandbits(64), flush=True)\n    os._exit(0)\n_ = os.wait()"
    async with ground.sandbox() as sandbox:
        results = [await sandbox.run_python(draw + fork, session=name) for name in (None, None, "a", "b")]
        drawn = [line for result in results for line in result.text.split()]
        expect(len(drawn) == len(set(drawn)) == 8, f"{drawn} {results[0].error_text}")
        seeded = await sandbox.run_python("import random, tempfile\nrandom.seed(7)\nprint(random.random())")
        expect(seeded.text == "0.32383276483316237\n", f"{seeded.text}{seeded.error_text}")


@probe("a program repeats: hashes of texts, and so the order of sets, are the same in every request and every sandbox")
async def same_hashes(ground: Ground) -> None:
    code = "print([hash(word) for word in ('a', 'b', b'c')], list({'one', 'two', 'three', 'four'}))"
    function = "def f():\n    return [hash('a'), hash('b'), hash(b'c')], list({'one', 'two', 'three', 'four'})"
    seen, called = set(), set()
    for _ in range(2):
        async with ground.sandbox() as sandbox:
            for session in (None, None, "s"):
                seen.add((await sandbox.run_python(code, session=session)).text)
            seen.add((await sandbox.exec(["python3", "-c", code])).text)
            await sandbox.reset()
            seen.add((await sandbox.run_python(code)).text)
            called.add(repr((await sandbox.call(function, "f")).value))
    expect(len(seen) == len(called) == 1 and "None" not in called, f"{seen} {called}")


@probe("a session keeps its variables, shows a last value, survives an error, and does not see another")
async def sessions(ground: Ground) -> None:
    async with ground.sandbox() as sandbox:
        await sandbox.run_python("x = 20", session="a")
        result = await sandbox.run_python("x += 1\nx * 2", session="a")
        expect(result.ok and result.text == "42\n", f"{result.status} {result.text} {result.error_text}")
        result = await sandbox.run_python("1 / 0", session="a")
        expect(result.status == "nonzero" and b"ZeroDivisionError" in result.stderr, f"{result.status}")
        expect((await sandbox.run_python("x", session="a")).text == "21\n", "the error cost the session")
        expect((await sandbox.run_python("x", session="b")).status == "nonzero", "a session sees another's variables")
        expect((await sandbox.run_python("x")).status == "nonzero", "a fresh run sees a session's variables")
        large = await sandbox.run_python(f"y = {'z' * 300_000!r}\nlen(y)", session="a")
        expect(large.text == "300000\n", f"{large.status} {large.detail}")


@probe("values of every plain type come out of a call as they are, and nothing else does")
async def calls(ground: Ground) -> None:
    value = [
        None,
        True,
        -(10**30),
        1.5,
        float("inf"),
        "é\ud800",
        b"\0\xff",
        (1,),
        {2},
        frozenset({3}),
        {"k": [4]},
        {1: 2},
    ]
    async with ground.sandbox() as sandbox:
        result = await sandbox.call("def f(x, *, y):\n    return [x, y]", "f", [value], {"y": 1})
        expect(result.returned and repr(result.value) == repr([value, 1]), f"{result.value!r} {result.error_text}")
        for body, word in (
            ("return object()", "TypeError"),
            ("return (i for i in [1])", "TypeError"),
            ("raise KeyError('k')", "KeyError"),
        ):
            result = await sandbox.call(f"def f():\n    {body}", "f")
            expect(not result.returned and word in result.raised, f"{body}: {result}")
        result = await sandbox.call("x = 1", "f")
        expect(not result.returned and "KeyError" in result.raised + result.error_text, f"no function: {result}")
        first = await sandbox.call("n = []\ndef f():\n    n.append(1)\n    return len(n)", "f")
        again = await sandbox.call("n = []\ndef f():\n    n.append(1)\n    return len(n)", "f")
        expect(first.value == again.value == 1, "a call sees another")


@probe("files go in and come out; what is missing or too large is refused")
async def files(ground: Ground) -> None:
    async with ground.sandbox() as sandbox:
        content = bytes(range(256)) * 100
        await sandbox.write("a/b/c.bin", content)
        expect(await sandbox.read("a/b/c.bin") == content, "a file changed on the way")
        await sandbox.write("a/b/c.bin", b"short")
        expect(await sandbox.read("a/b/c.bin") == b"short", "a shorter file keeps the end of the longer")
        expect((await sandbox.exec(["cat", "a/b/c.bin"])).stdout == b"short", "a program sees another file")
        found = [(entry.path, entry.kind, entry.size_bytes) for entry in await sandbox.entries()]
        expect(found == [("a", "folder", 0), ("a/b", "folder", 0), ("a/b/c.bin", "file", 5)], f"{found}")
        for path, cap in (("missing", None), ("a", None), ("a/b/c.bin", 4), ("a/b/c.bin/d", None)):
            try:
                await sandbox.read(path, max_bytes=cap)
                expect(False, f"{path} was read")
            except SandboxError:
                pass
        try:
            await sandbox.write("large", bytes(SMALL.file_bytes + 1))
            expect(False, "a file above the limit was written")
        except SandboxError:
            pass


@probe("a snapshot restores files, folders, links and modes, also in another sandbox; a reset starts anew")
async def snapshots(ground: Ground) -> None:
    show = ["sh", "-c", "ls -lR --time-style=+ | grep -v total; cat d/f"]
    async with ground.sandbox(files={"first": b"1"}) as sandbox, ground.sandbox() as other:
        made = await sandbox.exec(
            ["sh", "-c", "mkdir -p d/e; echo hi > d/f; chmod 750 d/f; ln -s f d/l; chmod 555 d/e"]
        )
        expect(made.ok, made.error_text)
        before = (await sandbox.exec(show)).stdout
        snapshot = await sandbox.snapshot()
        await sandbox.run_python("x = 1", session="s")
        await sandbox.exec(["sh", "-c", "rm -r first d/f; echo changed > new; echo t > /tmp/t"])
        await sandbox.restore(snapshot)
        expect((await sandbox.exec(show)).stdout == before, "the restored folder differs")
        expect((await sandbox.run_python("x", session="s")).status == "nonzero", "a session outlived the restoring")
        expect(not (await sandbox.exec(["ls", "/tmp"])).stdout, "/tmp outlived the restoring")
        await other.restore(snapshot)
        expect((await other.exec(show)).stdout == before, "the folder differs in the other sandbox")
        await sandbox.reset()
        expect([entry.path for entry in await sandbox.entries()] == ["first"], "a reset does not start anew")


@probe("requests made together are served in order; a cancelled one leaves nothing and breaks no promise")
async def turns(ground: Ground) -> None:
    async with ground.sandbox() as sandbox:
        results = await asyncio.gather(*(sandbox.run_python(f"print({index})") for index in range(6)))
        expect([result.text for result in results] == [f"{index}\n" for index in range(6)], "results were mixed up")
        argv = ["python3", "-c", "import time; time.sleep(60)", ground.token]
        task = asyncio.create_task(sandbox.exec(argv, limits=replace(SMALL, wall_s=60)))
        await asyncio.sleep(0.3)
        task.cancel()
        try:
            await task
            expect(False, "the cancellation was swallowed")
        except asyncio.CancelledError:
            await ground.expect_no_process()
        result = await sandbox.run_python("print(1)")
        expect(result.status in ("ok", "lost", "infra"), f"after a cancellation: {result.status}")


@probe("what is closed stays closed: requests are `infra`, closing twice is no error")
async def closing(ground: Ground) -> None:
    async with ground.sandbox() as sandbox:
        await sandbox.close()
        expect((await sandbox.run_python("print(1)")).status == "infra", "it runs after its end")
        try:
            await sandbox.write("x", b"")
            expect(False, "it writes after its end")
        except SandboxFault:
            pass
        expect(not await sandbox.healthy(), "it calls itself healthy")
        await sandbox.close()


@probe("limits of a request are never looser than the sandbox's")
async def looser_limits(ground: Ground) -> None:
    async with ground.sandbox(replace(SMALL, wall_s=0.5, output_bytes=100)) as sandbox:
        started_s = time.monotonic()
        result = await sandbox.run_python("print('x' * 1000)\nwhile True: pass", limits=replace(SMALL, wall_s=30))
        took_s = time.monotonic() - started_s
        expect(result.status == "timeout" and took_s <= 1.0, f"{result.status} after {took_s:.2f} s")
        expect(len(result.stdout) == 100, f"{len(result.stdout)} bytes were kept")


@probe("a network allow-list is honoured or refused, never ignored")
async def allow_list(ground: Ground) -> None:
    try:
        sandbox = await ground.backend.start(SandboxSpec(network=Network(("example.org:443",))))
    except SandboxError:
        return
    async with sandbox:
        code = "import socket\nsocket.create_connection(('192.0.2.1', 80), 1)"
        expect((await sandbox.run_python(code)).status == "nonzero", "it reaches what is not on the list")
