"""What failed, where code of an environment's author raised: that code, a server, the network or this machine.

Owns the one function that makes an `EnvFault` of an exception, and the look at this machine. What follows from a fault
belongs to the rollout.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from tempfile import gettempdir
from typing import Any

from agentrl.env.watchdog import Hung
from agentrl.errors import EnvFault, JudgeFault, PolicyFault, ThreadsLeft, Who
from agentrl.interrupts import is_from_outside
from agentrl.safe_json import safe_text

_MOST_CHARS = 2000
_MOST_CAUSES = 16
_NETWORK_NUMBERS = frozenset(
    getattr(errno, name)
    for name in (
        *("ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "ENETUNREACH", "ENETDOWN", "ENETRESET", "EHOSTUNREACH"),
        *("EHOSTDOWN", "ETIMEDOUT", "EPIPE", "ENOTCONN", "EADDRNOTAVAIL"),
    )
    if hasattr(errno, name)
)
_HOST_NUMBERS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM))
# Clients' exceptions by the package and name of a class, so that no client need be imported.
_NETWORK_NAMES = frozenset(
    (
        *("httpx.TransportError", "httpcore.NetworkError", "httpcore.TimeoutException", "httpcore.ProxyError"),
        *("httpcore.RemoteProtocolError", "http.RemoteDisconnected", "http.IncompleteRead", "http.BadStatusLine"),
        *("requests.ConnectionError", "requests.Timeout", "requests.ChunkedEncodingError"),
        *("urllib3.NewConnectionError", "urllib3.MaxRetryError", "urllib3.ProtocolError", "urllib3.TimeoutError"),
        *("urllib3.SSLError", "urllib3.ProxyError", "aiohttp.ClientConnectionError", "aiohttp.ClientPayloadError"),
        *("openai.APIConnectionError", "anthropic.APIConnectionError", "botocore.HTTPClientError"),
        *("websockets.ConnectionClosed", "redis.ConnectionError", "redis.TimeoutError"),
    )
)
# The request itself is wrong, though the class says transport.
_NOT_NETWORK_NAMES = frozenset(("httpx.LocalProtocolError", "httpx.UnsupportedProtocol", "requests.InvalidProxyURL"))
_STATUS_NAMES = frozenset(
    (
        *("httpx.HTTPStatusError", "requests.HTTPError", "urllib.HTTPError", "aiohttp.ClientResponseError"),
        *("openai.APIStatusError", "anthropic.APIStatusError"),
    )
)
_SERVER_FAILED = (408, 429)
# Packages whose frames name the machine that they connect to, and by which names.
_CONNECTING = frozenset(("socket", "asyncio", "http", "urllib3", "httpcore", "anyio", "smtplib", "ftplib", "telnetlib"))
_ADDRESSES = ("host", "address", "addr", "remote_host")
_NO_THREAD = "can't start new thread"
# What a machine that is well has left.
_NO_DISKS = frozenset(("proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "squashfs", "iso9660"))
_SPARE_BYTES = 256 << 20
_SPARE_FILES = 32


def fault_of(what: str, error: BaseException) -> EnvFault:
    """The fault to raise for what an author's code raised: `raise fault_of("score", error) from error`.

    Args:
        what: what was running: `tool 'price'`, `score`, `reset`.
        error: any exception. An `EnvFault` is returned as it is.
    Returns: a fault whose `at` says what failed. The cause of the exception decides too: an author's own exception
        that was raised from a refused connection is a fault of the network.
    """
    if isinstance(error, EnvFault):
        return error
    hung = _first_hung(error)
    if hung is not None:
        fault = EnvFault(str(hung), who="network" if hung.at_network else "author")
        fault.is_late = True
        return fault
    inner = _first_fault(error)
    if inner is not None and culprit(error) != "author":
        return inner
    if isinstance(error, asyncio.CancelledError):
        return EnvFault(f"{what} awaited something that had been cancelled", who="author")
    text = _text_of(error)
    answers = error.answers if isinstance(error, PolicyFault) else None
    raised = f"{what} raised {type(error).__name__}" + (f": {text}" if text else "")
    return EnvFault(raised, who=culprit(error), answers=answers)


def _first_hung(error: BaseException) -> Hung | None:
    """The interruption in an exception, which a group of tasks wraps in one of its own."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_first_hung, error.exceptions)), None)
    return error if isinstance(error, Hung) else None


def _first_fault(error: BaseException) -> EnvFault | None:
    """The fault in a group of exceptions; first of all that of a judge, which is never the model's doing."""
    if not isinstance(error, BaseExceptionGroup):
        return error if isinstance(error, EnvFault) else None
    found = [fault for fault in map(_first_fault, error.exceptions) if fault is not None]
    return next((fault for fault in found if isinstance(fault, JudgeFault)), found[0] if found else None)


def is_authors(error: BaseException) -> bool:
    """Whether an exception is to become a fault: all but those that stop the program, this run or this task.

    An author's code may await something that had been cancelled; that is a fault, and no cancellation of this task. It
    may raise `KeyboardInterrupt` as well, though no signal came.
    """
    if isinstance(error, asyncio.CancelledError):
        return not _asked_to_stop()
    return not isinstance(error, ThreadsLeft) and not is_from_outside(error)


def _asked_to_stop() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop
        return True
    return task is None or task.cancelling() > 0


def culprit(error: BaseException) -> Who:
    """What failed, told from an exception and its causes: `network`, `server`, `host`, else `author`.

    Of a group of exceptions: what failed first, if none of them is the author's.
    """
    for cause in _causes(error):
        if isinstance(cause, BaseExceptionGroup):
            each = [culprit(one) for one in cause.exceptions]
            return "author" if "author" in each else each[0]
        found = _culprit_of(cause)
        if found is not None:
            return found
    return "author"


def host_gives_it(error: BaseException) -> bool:
    """Whether this machine now gives what some code did not get from it: memory, descriptors or a thread.

    Then that code asked for more than a machine has. Nothing says which disk was full, so that all must have room. Of
    a quota nothing is known.
    """
    for cause in _causes(error):
        number = cause.errno if isinstance(cause, OSError) else None
        if isinstance(cause, MemoryError) or number == errno.ENOMEM:
            return _gets(lambda: bytearray(_SPARE_BYTES))
        if number in (errno.EMFILE, errno.ENFILE):
            return _gets(_open_some)
        if number == errno.ENOSPC:
            return _disks_have_room()
        if _text_of(cause) == _NO_THREAD:
            return _gets(lambda: threading.Thread(target=int, daemon=True).start())
    return False


def is_addressed(error: BaseException, arguments: Any) -> bool:
    """Whether the machine that a failed connection was for, or its port, stands in arguments of any depth."""
    given, waiting = [], [arguments]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (dict, list)):
            waiting += value.values() if isinstance(value, dict) else value
        else:
            given.append(value.lower() if isinstance(value, str) else value)
    texts = [value for value in given if isinstance(value, str)]
    return any(
        address in given if isinstance(address, int) else any(address in text for text in texts)
        for address in _addresses_of(error)
    )


def _addresses_of(error: BaseException) -> set[str | int]:
    """The machines that a failed connection was for, and their ports, as far as it tells: names in small letters.

    They stand in the variables of whatever opened the connection, and in the exceptions of some clients.
    """
    given: list[Any] = []
    for cause in _causes(error):
        url = _attribute(_attribute(cause, "request"), "url")
        given += [_attribute(url, "host"), _attribute(cause, "host")]
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            if str(frame.f_globals.get("__name__", "")).partition(".")[0] in _CONNECTING:
                for value in map(frame.f_locals.get, _ADDRESSES):
                    given += value[:2] if isinstance(value, tuple) else [value]
    names = {value.lower() for value in given if isinstance(value, str) and value}
    return names | {value for value in given if type(value) is int}


def _attribute(of: Any, name: str) -> Any:
    """An attribute of an exception, or of what it holds; None where there is none. Those of httpx may raise."""
    try:
        return getattr(of, name, None)
    except Exception:
        return None


def _gets(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except (MemoryError, OSError, RuntimeError):
        return False
    return True


def _disks_have_room() -> bool:
    """Whether each disk that can be written to has room, as far as this process can see."""
    folders = {os.getcwd(), gettempdir()}
    with suppress(OSError), open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            _, folder, kind, options, *_ = line.split()
            if kind not in _NO_DISKS and "ro" not in options.split(","):
                folders.add(folder.replace("\\040", " "))
    return all(map(_has_room, folders))


def _has_room(folder: str) -> bool:
    try:
        disk = os.statvfs(folder)
    except OSError:  # it cannot be seen, and so it cannot be written to
        return True
    if disk.f_blocks == 0 or not os.access(folder, os.W_OK):
        return True
    return disk.f_bavail * disk.f_frsize >= min(_SPARE_BYTES, disk.f_blocks * disk.f_frsize // 2) and (
        disk.f_files == 0 or disk.f_favail > _SPARE_FILES
    )


def _open_some() -> None:
    with ExitStack() as stack:
        for _ in range(_SPARE_FILES):
            stack.enter_context(open(os.devnull, "rb"))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception, then what it was raised from or while handling."""
    cause: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if cause is None:
            return
        yield cause
        if isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
            cause = cause.exceptions[0]
        else:
            cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _culprit_of(error: BaseException) -> Who | None:
    if isinstance(error, (EnvFault, PolicyFault)):  # a policy that an author's code asks is a server to it
        return error.at
    if isinstance(error, Hung):
        return "network" if error.at_network else "author"
    if isinstance(error, MemoryError) or _text_of(error) == _NO_THREAD:
        return "host"
    names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    if names & _STATUS_NAMES:
        status = _status_of(error)
        return "server" if status >= 500 or status in _SERVER_FAILED else None
    if isinstance(error, OSError) and error.errno in _HOST_NUMBERS:
        return "host"
    return "network" if _is_network(error, names) else None


def _is_network(error: BaseException, names: set[str]) -> bool:
    if names & _NOT_NETWORK_NAMES:
        return False
    if isinstance(error, (ConnectionError, TimeoutError, ssl.SSLError)) or names & _NETWORK_NAMES:
        return True
    if "urllib.URLError" in names:
        reason = getattr(error, "reason", None)
        return isinstance(reason, BaseException) and _culprit_of(reason) == "network"
    resolver = "socket.gaierror" in names or "socket.herror" in names
    return resolver or (isinstance(error, OSError) and error.errno in _NETWORK_NUMBERS)


def _status_of(error: Any) -> int:
    """The HTTP status that an exception tells, or 0."""
    response = getattr(error, "response", None)
    for holder in (error, response):
        for name in ("status_code", "status", "code"):
            found = getattr(holder, name, None)
            if type(found) is int:
                return found
    return 0


def _text_of(error: BaseException) -> str:
    """The text of an exception, cut short; an author's exception may fail at that too."""
    try:
        text = str(error)
    except Exception:
        return "(it has no text)"
    return safe_text(text if len(text) <= _MOST_CHARS else text[:_MOST_CHARS] + "...")
