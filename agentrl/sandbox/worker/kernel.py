"""System calls that Python does not offer. Owns their numbers and structures; decides nothing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import signal
import struct
from collections.abc import Callable

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x8000000, 0x20000000, 0x40000000
CLONE_NEWUSER = 0x10000000
_CLONE_SETTID, _CLONE_CLEARTID = 0x1000000, 0x200000
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 2, 4, 8
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS = 1, 8
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_GET_TID_ADDRESS, _PR_SET_NO_NEW_PRIVS = 4, 24, 40, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_SECCOMP_SET_MODE_FILTER = 1
_LAST_CAPABILITY = 40

# name -> number, by machine: clone, capset, seccomp, openat2.
_NUMBERS = {
    "x86_64": {"clone": 56, "capset": 126, "seccomp": 317, "openat2": 437},
    "aarch64": {"clone": 220, "capset": 91, "seccomp": 277, "openat2": 437},
}
MACHINE = os.uname().machine
_NR = _NUMBERS.get(MACHINE, {})

_libc = ctypes.CDLL(None, use_errno=True)
# Calls through PyDLL keep the interpreter lock, which the child of a raw clone must hold.
_locked = ctypes.PyDLL(None, use_errno=True)
_locked.syscall.restype = ctypes.c_long
_libc.syscall.restype = ctypes.c_long
_libc.readlinkat.restype = ctypes.c_ssize_t
# Kept in module names, because looking up an attribute of a library runs Python code.
_prctl, _syscall, _mount, _wait4 = _libc.prctl, _libc.syscall, _libc.mount, _libc.wait4
_status, _usage = ctypes.c_int(), ctypes.create_string_buffer(144)
_status_at = ctypes.byref(_status)
_USAGE = struct.Struct("5l")
"""How `struct rusage` begins: seconds and microseconds of the user and of the system, kibibytes."""
# Looked up here once: a first look-up makes an object, which in a fork would write to many pages.
_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_here, _after_fork_there = ctypes.pythonapi.PyOS_AfterFork_Parent, ctypes.pythonapi.PyOS_AfterFork_Child

_CAPABILITY_HEADER = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), 8)
_NO_CAPABILITIES = ctypes.create_string_buffer(24)


def _check(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def _tid_address() -> int:
    address = ctypes.c_void_p()
    if _prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) != 0:
        return 0
    return address.value or 0


class Clone:
    """A fork into fresh namespaces, with its arguments prepared once; to be made in the thread that forks.

    glibc caches the thread id, and a raw clone leaves the old one there; the kernel is told the address to update.
    """

    def __init__(self, flags: int) -> None:
        address = _tid_address()
        if address:
            flags |= _CLONE_SETTID | _CLONE_CLEARTID
        arguments = (0, 0, address, 0) if MACHINE == "x86_64" else (0, 0, 0, address)
        words = map(ctypes.c_ulong, (flags | signal.SIGCHLD, *arguments))
        self._clone = functools.partial(_locked.syscall, _NR["clone"], *words)

    def fork(self) -> int:
        """As `os.fork`: returns 0 in the child."""
        _before_fork()
        pid: int = self._clone()
        if pid == 0:
            _after_fork_there()
            return 0
        error = ctypes.get_errno()
        _after_fork_here()
        if pid < 0:
            raise OSError(error, f"clone: {os.strerror(error)}")
        return pid


def wait(pid: int) -> tuple[int, float, int]:
    """Wait for the end of a child: a faster `os.wait4`, which looks up a module and makes an object of 16 fields.

    Returns: exit code (below 0 for a signal), processor seconds, and the largest resident set in bytes.
    """
    while _wait4(pid, _status_at, 0, _usage) < 0:
        error = ctypes.get_errno()
        if error != errno.EINTR:
            raise OSError(error, f"wait4: {os.strerror(error)}")
    user_s, user_us, system_s, system_us, max_rss_kib = _USAGE.unpack_from(_usage)
    cpu_s = user_s + system_s + (user_us + system_us) / 1e6
    return os.waitstatus_to_exitcode(_status.value), cpu_s, max_rss_kib * 1024


def give_back_memory() -> None:
    """Return freed memory to the kernel, so that forks need not copy it."""
    with contextlib.suppress(AttributeError):  # only glibc has it
        _libc.malloc_trim(ctypes.c_size_t(0))


def unshare(flags: int) -> None:
    """Move this process into fresh namespaces."""
    _check(_libc.unshare(flags), "unshare")


def mounting(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> Callable[[], None]:
    """A function that mounts, binds or remounts, with its arguments prepared once for many calls."""
    call = functools.partial(
        _mount,
        source.encode(),
        target.encode(),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )

    def mount_it() -> None:
        if call() < 0:
            _check(-1, f"mount {target}")

    return mount_it


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount, bind or remount."""
    mounting(source, target, kind, flags, options)()


def detach(target: str) -> None:
    """Remove a mount from the tree now; the kernel frees it when nothing uses it."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def bound_capabilities() -> None:
    """Keep this process's capabilities, but let no program that it or a fork of it executes gain any."""
    for capability in range(_LAST_CAPABILITY + 1):
        _prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def drop_capabilities() -> None:
    """Give up every capability; `bound_capabilities` must have been called."""
    _check(_syscall(_NR["capset"], _CAPABILITY_HEADER, _NO_CAPABILITIES), "capset")


def become_user(user: int, capabilities: tuple[int, ...]) -> None:
    """Change from root to a user and a group without a name, and keep some capabilities."""
    _check(_prctl(_PR_SET_KEEPCAPS, ctypes.c_ulong(1), 0, 0, 0), "keepcaps")
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    mask = sum(1 << capability for capability in capabilities)
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), 8)
    data = ctypes.create_string_buffer(struct.pack("IIIIII", mask, mask, 0, 0, 0, 0), 24)
    _check(_syscall(_NR["capset"], header, data), "capset")


def no_new_privileges() -> None:
    """Let no program that is executed later gain rights by a set-uid bit or file capabilities."""
    _check(_prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0), "no_new_privs")


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends."""
    _check(_prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0), "pdeathsig")


def set_dumpable(allowed: bool) -> None:
    """Show or hide this process's memory, descriptors and /proc entries to others of the same user."""
    _check(_prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(int(allowed)), 0, 0, 0), "dumpable")


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


class Filter:
    """A seccomp filter, prepared once for many processes.

    Args:
        program: `struct sock_filter` records, 8 bytes each.
    """

    def __init__(self, program: bytes) -> None:
        self._buffer = ctypes.create_string_buffer(program, len(program))
        self._head = _Program(len(program) // 8, ctypes.cast(self._buffer, ctypes.c_void_p))

    def load(self) -> None:
        """Install the filter in this process, for good."""
        _check(_syscall(_NR["seccomp"], _SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(self._head)), "seccomp")


def open_beneath(folder_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open a path inside a folder; fails if the path leads outside or through a link."""
    how = struct.pack(
        "QQQ",
        flags | os.O_CLOEXEC,
        mode,
        _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS,
    )
    buffer = ctypes.create_string_buffer(how, len(how))
    name = os.fsencode(path)
    return _check(_syscall(_NR["openat2"], folder_fd, name, buffer, ctypes.c_size_t(len(how))), path)


def read_link(name: str, folder_fd: int, room: memoryview) -> int:
    """Read the target of a link into memory of the caller, and leave no copy; returns its size."""
    buffer = (ctypes.c_char * len(room)).from_buffer(room)
    size: int = _libc.readlinkat(folder_fd, os.fsencode(name), buffer, ctypes.c_size_t(len(room)))
    return _check(size, name)


def make_link(target: memoryview, name: str, folder_fd: int) -> None:
    """Make a link to a target, and leave no copy of the target."""
    size = len(target)
    buffer = ctypes.create_string_buffer(size + 1)
    ctypes.memmove(buffer, (ctypes.c_char * size).from_buffer(target), size)
    try:
        _check(_libc.symlinkat(buffer, folder_fd, os.fsencode(name)), name)
    finally:
        ctypes.memset(buffer, 0, size)
