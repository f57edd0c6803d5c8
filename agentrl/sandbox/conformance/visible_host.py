"""Attacks on the host from one sandbox: files, secrets, network, processes, the kernel. Owns these attacks only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from agentrl.sandbox.base import ExecResult, Sandbox
from agentrl.sandbox.conformance.probes import Ground, Probes, expect
from agentrl.sandbox.host.syscalls import REFUSED

probe = Probes()


async def _report(sandbox: Sandbox, code: str) -> ExecResult:
    result = await sandbox.run_python(code)
    expect(result.ok, f"the attack itself broke: {result.error_text[-500:]} {result.detail}")
    return result


@contextlib.contextmanager
def _host_secret(secret: str) -> Iterator[list[Path]]:
    """Files of the host that hold a secret: in the temporary folder, and in the current one where that is allowed."""
    with contextlib.ExitStack() as stack:
        paths = []
        for folder in (tempfile.gettempdir(), os.getcwd(), str(Path.home())):
            with contextlib.suppress(OSError):
                place = stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix="probe-"))
                path = Path(place) / "secret.txt"
                path.write_text(secret)
                os.chmod(place, 0o755)
                paths.append(path)
        yield paths


@probe("the host's environment variables cannot be read")
async def secrets_in_environment(ground: Ground) -> None:
    code = """
import os, glob
print(dict(os.environ))
for path in glob.glob("/proc/*/environ") + glob.glob("/proc/*/cmdline") + glob.glob("/proc/*/task/*/environ"):
    try:
        print(path, open(path, "rb").read())
    except OSError:
        pass
"""
    os.environ["AGENTRL_PROBE"] = ground.token
    try:
        async with ground.sandbox() as sandbox:
            result = await _report(sandbox, code)
    finally:
        del os.environ["AGENTRL_PROBE"]
    expect(ground.token.encode() not in result.stdout, "a variable of the host was read")
    expect(b"agentrl-sandbox" not in result.stdout, "the worker's command line was read")


@probe("the host's files cannot be read, by any path")
async def host_files(ground: Ground) -> None:
    code = """
import glob, sys, json, os
paths = json.loads(PATHS)
roots = ["", "/proc/1/root", "/proc/self/root", "/proc/1/cwd/..", "/proc/self/cwd/..", "/.", "/oldroot", "/newroot"]
roots += glob.glob("/proc/self/fd/*") + glob.glob("/proc/[0-9]*/root")
for root in roots:
    for path in paths:
        try:
            print(open(root + path).read())
        except OSError:
            pass
for path in ("/etc/shadow", "/root", "/home", "/var/lib", "/boot", "/proc/kcore", "/dev/mem", "/dev/vda", "/dev/sda",
             "/dev/kmsg", "/var/run/docker.sock", "/run/docker.sock"):
    try:
        if os.path.isdir(path):
            print("list", path, json.dumps(sorted(os.listdir(path))))
        else:
            open(path, "rb").read(1)
            print("read", path)
    except OSError:
        pass
"""
    with _host_secret(ground.token) as paths:
        async with ground.sandbox() as sandbox:
            result = await _report(sandbox, f"PATHS = {json.dumps(json.dumps(list(map(str, paths))))}\n{code}")
    expect(ground.token not in result.text, "a file of the host was read")
    for line in result.text.splitlines():
        word, path, *names = line.split(" ", 2)
        # An image has its own folders of these names; the host's content of them must not be seen.
        expect(word == "list" and (names == ["[]"] or json.loads(names[0]) != _names_here(path)), line)


def _names_here(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


@probe("no package of the host is seen, AgentRL and installed environments with their answer keys least of all")
async def answer_keys(ground: Ground) -> None:
    code = """
import glob, importlib.util, json, os, site, sys
found = []
for path, *identity in json.loads(PATHS):
    try:
        info = os.stat(path)
        found += [path] * ([info.st_ino, info.st_size, info.st_mtime_ns] == identity)
    except OSError:
        pass
folders = {*sys.path, *site.getsitepackages(), "/usr/src", "/usr/local/src"}
folders.update(glob.glob("/usr/*/python*/*-packages") + glob.glob("/usr/*/*/python*/*-packages"))
found += [folder for folder in folders if os.path.isdir(os.path.join(folder, "agentrl"))]
print(found, importlib.util.find_spec("agentrl"))
"""
    paths = [[path, info.st_ino, info.st_size, info.st_mtime_ns] for path, info in _packages_here()]
    code = f"PATHS = {json.dumps(json.dumps(paths))}\n{code}"
    async with ground.sandbox() as sandbox:
        for result in (await _report(sandbox, code), await sandbox.exec(["python3", "-c", code])):
            expect(result.text == "[] None\n", f"seen: {result.text} {result.error_text}")


def _packages_here() -> Iterator[tuple[str, os.stat_result]]:
    """Some of what this machine's interpreters import from, and AgentRL itself."""
    folders = [entry for entry in sys.path if entry.endswith("-packages")]
    folders += [
        str(path) for pattern in ("lib*", "local/lib*") for path in Path("/usr").glob(f"{pattern}/python*/*-packages")
    ]
    names = [os.path.join(folder, name) for folder in folders for name in _names_here(folder)[:40]]
    for name in (str(Path(__file__).resolve().parents[2]), *names):
        with contextlib.suppress(OSError):
            yield name, os.stat(name)


@probe("nothing outside the sandbox is written")
async def writing_outside(ground: Ground) -> None:
    with _host_secret("as it was") as paths:
        names = [str(path) for path in paths] + [str(path.parent / "new") for path in paths]
        names += [f"/usr/{ground.token}", f"/etc/{ground.token}", f"/{ground.token}", f"/dev/{ground.token}"]
        code = f"""
import os
for name in {names!r}:
    for root in ("", "/proc/1/root", "/proc/self/root"):
        try:
            os.makedirs(os.path.dirname(root + name), exist_ok=True)
            open(root + name, "w").write("changed")
        except OSError:
            pass
"""
        async with ground.sandbox() as sandbox:
            await _report(sandbox, code)
        expect(all(path.read_text() == "as it was" for path in paths), "a file of the host was changed")
        made = _existing(set(names) - set(map(str, paths)))
        expect(not made, f"files were made on the host: {made}")


def _existing(names: Iterable[str]) -> list[str]:
    return [name for name in names if Path(name).exists()]


@probe("no packet reaches the host: loopback, its address, UDP, abstract sockets, DNS")
async def network(ground: Ground) -> None:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(listener) for listener in _listeners(ground.token)]
        ports = [found.getsockname()[1] if found.family != socket.AF_UNIX else 0 for found in listeners]
        code = f"""
import socket
addresses = {[*_own_addresses()]!r}
for address in addresses:
    for port in {[port for port in ports if port]!r}:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            s = socket.socket(socket.AF_INET, kind)
            s.settimeout(0.2)
            try:
                s.connect((address, port)); s.send(b"here"); print("sent", address, port)
            except OSError:
                pass
s = socket.socket(socket.AF_UNIX)
try:
    s.connect("\\0{ground.token}"); s.send(b"here")
except OSError:
    pass
try:
    print("resolved", socket.getaddrinfo("example.org", 80))
except OSError:
    pass
"""
        async with ground.sandbox() as sandbox:
            result = await _report(sandbox, code)
        reached = [listener.getsockname() for listener in listeners if _reached(listener)]
    expect(not reached, f"something arrived at {reached}")
    expect("resolved" not in result.text, result.text)


def _listeners(token: str) -> Iterator[socket.socket]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        listener = socket.socket(socket.AF_INET, kind)
        listener.bind(("0.0.0.0", 0))
        if kind == socket.SOCK_STREAM:
            listener.listen()
        yield listener
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0" + token)
    listener.listen()
    yield listener


def _reached(listener: socket.socket) -> bool:
    listener.setblocking(False)
    try:
        if listener.type == socket.SOCK_DGRAM:
            return bool(listener.recvfrom(16))
        listener.accept()[0].close()
        return True
    except OSError:
        return False


def _own_addresses() -> list[str]:
    addresses = {"127.0.0.1", "127.0.0.53"}
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(("192.0.2.1", 9))
        addresses.add(out.getsockname()[0])
    return sorted(addresses)


@probe("raw, packet, netlink, vsock and other sockets that programs do not need cannot be made")
async def raw_sockets(ground: Ground) -> None:
    code = """
import socket
for family in range(46):
    for kind in (1, 2, 3, 5, 10):
        if family in (1, 2, 10) and kind in (1, 2):
            continue
        try:
            socket.socket(family, kind); print(family, kind)
        except OSError:
            pass
"""
    async with ground.sandbox() as sandbox:
        result = await _report(sandbox, code)
        expect(not result.stdout, f"family and kind: {result.text.splitlines()}")


def _bystander() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@probe("no process outside is signalled or traced, and neither is the worker")
async def other_processes(ground: Ground) -> None:
    victim = _bystander()
    try:
        code = f"""
import ctypes, os, signal
libc = ctypes.CDLL(None)
mine = os.getpid()
for pid in (-1, 1, 2, 3, os.getppid(), {victim.pid}, {os.getpid()}):
    if pid in (mine, 0):
        continue
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
        try:
            os.kill(pid, number)
        except OSError:
            pass
    if libc.ptrace(16, pid, 0, 0) == 0 or libc.ptrace(0x4206, pid, 0, 0) == 0:
        print("traced", pid)
"""
        async with ground.sandbox() as sandbox:
            # First checks whether the process is visible: if it is, the test ends here and nothing is signalled.
            look = f"import os\ntry:\n    os.kill({victim.pid}, 0); print('seen')\nexcept OSError:\n    pass"
            for seen in (await sandbox.run_python(look), await sandbox.exec(["python3", "-c", look])):
                expect(seen.ok and not seen.stdout, f"a process of the host is in reach {seen.error_text}")
            await sandbox.exec(["python3", "-c", code])
            result = await sandbox.run_python(code)
            expect("traced" not in result.text, result.text)
            expect(victim.poll() is None, "a process of the host was killed")
            expect(_state(victim.pid) != "T", "a process of the host was stopped")
            expect(await sandbox.healthy(), "the worker was killed")
    finally:
        victim.kill()
        await asyncio.to_thread(victim.wait)


@probe("mount, unshare, setns, chroot and device files are refused")
async def mount_and_namespaces(ground: Ground) -> None:
    code = """
import ctypes, os, stat
libc = ctypes.CDLL(None)
tried = {
    "mount": libc.mount(b"tmpfs", b"/work", b"tmpfs", 0, 0),
    "umount": libc.umount2(b"/work", 2),
    "chroot": libc.chroot(b"/work"),
    "pivot_root": libc.syscall(155, b"/", b"/work") if os.uname().machine == "x86_64" else -1,
}
for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80):
    tried[f"unshare {flag:x}"] = libc.unshare(flag)
    if flag != 0x80:
        tried[f"clone {flag:x}"] = libc.syscall(56 if os.uname().machine == "x86_64" else 220, flag | 17, 0, 0, 0, 0)
        if tried[f"clone {flag:x}"] == 0:
            os._exit(0)
tried["setns"] = libc.setns(os.open("/proc/self/ns/mnt", os.O_RDONLY), 0)
for name, kind, device in (("c", stat.S_IFCHR, os.makedev(1, 1)), ("b", stat.S_IFBLK, os.makedev(254, 0))):
    try:
        os.mknod(name, kind | 0o666, device); tried["mknod " + name] = 0
    except OSError:
        pass
print([name for name, result in tried.items() if result >= 0])
"""
    async with ground.sandbox() as sandbox:
        result = await _report(sandbox, code)
        expect(result.text == "[]\n", f"allowed: {result.text}")


@probe("system calls that programs do not need are refused: io_uring, bpf, keyctl, perf, userfaultfd, modules, …")
async def unneeded_calls(ground: Ground) -> None:
    code = f"""
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
numbers = {REFUSED!r}[os.uname().machine]
for name, number in numbers.items():
    result = libc.syscall(number, 0, 0, 0, 0, 0, 0)
    if result >= 0 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
        print(name, result, ctypes.get_errno())
"""
    async with ground.sandbox() as sandbox:
        result = await _report(sandbox, code)
        expect(not result.stdout, f"not refused: {result.text.splitlines()}")


@probe("a program has no capability, gains none by set-uid, and runs under a system-call filter")
async def privileges(ground: Ground) -> None:
    code = """
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(*[fields[name].strip() for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")])
print(fields["NoNewPrivs"].strip(), fields["Seccomp"].strip())
"""
    async with ground.sandbox() as sandbox:
        for result in (await _report(sandbox, code), await sandbox.exec(["python3", "-c", code])):
            rights, guards = result.text.splitlines()
            expect(set(rights.split()) == {"0" * 16} and guards == "1 2", f"{rights}; {guards}")


@probe("kernel settings in /proc and /sys cannot be opened for writing")
async def kernel_settings(ground: Ground) -> None:
    code = """
import os
def files(top):
    if os.path.isfile(top):
        yield top
    for folder, _, names in os.walk(top):
        for name in names:
            yield os.path.join(folder, name)
for top in ("/proc/sys", "/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"):
    for path in files(top):
        try:
            os.close(os.open(path, os.O_WRONLY)); print(path)
        except OSError:
            pass
"""
    async with ground.sandbox() as sandbox:
        result = await _report(sandbox, code)
        # Any process may open this file, but writing to it takes a capability that no program in a sandbox has.
        found = set(result.text.split()) - {"/proc/sys/kernel/ns_last_pid"}
        expect(not found, f"opened: {sorted(found)[:5]}")


@probe("a program has no terminal, and cannot type into one")
async def terminal(ground: Ground) -> None:
    code = """
import fcntl, os
print([number for number in (0, 1, 2) if os.isatty(number)])
try:
    os.open("/dev/tty", os.O_RDWR); print("tty")
except OSError:
    pass
try:
    main, other = os.openpty()
    fcntl.ioctl(other, 0x5412, b"x"); print("typed")
except OSError:
    pass
"""
    async with ground.sandbox() as sandbox:
        result = await _report(sandbox, code)
        expect(result.text == "[]\n", result.text)
