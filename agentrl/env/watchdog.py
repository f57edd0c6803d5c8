"""Ends author code that does not return: plain functions, and coroutines that never wait.

One daemon thread looks at what runs in every thread. Code that has run for longer than its limit is named in the log
and interrupted: `Hung` is raised where it is, so that its episode ends and the run goes on. After `end_when_hung`, code
that cannot be interrupted (one long call into C) ends the process, since a loop that is blocked cannot end a run. Time
counts in looks of this thread, so a process that was stopped and goes on is not taken for a hung one.

Code that holds Python's global lock all the time, such as one long regular expression, keeps this thread from looking.
In the main thread a timer of the kernel (SIGVTALRM, in CPU time) then takes its place. In another thread such code is
not seen.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from threading import get_ident
from time import monotonic, process_time, sleep
from types import FrameType
from typing import Any

from agentrl.file_modules import INSTALLED

logger = logging.getLogger(__name__)
EXIT_HUNG = 4
HOOK_TIMEOUT_S = 300.0
"""Seconds that author code may take by default."""
_LOOK_S = 1.0
_GRACE_LOOKS = 10
"""Looks between the first interruption and the end of the process, or as many as the limit has if those are fewer."""
_PATIENCE_S = 30.0
MOST_LEFT = 64
"""Threads that go on though nobody waits for what they do, before no more are started."""
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OURS = tuple(os.path.join(_HERE, floor, "") for floor in ("env", "policy", "rollout", "sandboxed"))
# Files that write `running`.
_NOTING = frozenset(
    os.path.join(_HERE, "env", name)
    for name in ("author_code.py", "execution.py", "wrapped.py", os.path.join("started", "tasks.py"))
)
# Modules of the standard library in which code waits for another machine.
_WAITS = ("socket", "ssl")
_HAS_ALARM = hasattr(signal, "SIGVTALRM")  # Windows has none

Running = tuple[Any, Any, float]
"""What runs: its owner (an environment or None), the name of a hook or a tool, and its limit in seconds."""

running: dict[int, Running | None] = {}
"""Thread -> what author code runs in it. Whoever runs such code writes a new tuple here and puts the old one back."""
_overdue: dict[int, tuple[Running | None, str]] = {}
"""Thread -> what is to be interrupted in it, and what to say."""

_left: dict[threading.Thread, int] = {}
"""Threads that nobody waits for -> times that they were interrupted."""
_to_raise: set[int] = set()
"""Threads in which `Hung` is to be raised after this look."""


class Hung(BaseException):
    """Raised in author code that has run for too long. No `Exception`, which such code may catch.

    Attributes: at_network: whether it was waiting for another machine.
    """

    def __init__(self) -> None:
        thread = get_ident()
        super().__init__(_overdue.get(thread, (None, "it did not return in time"))[1])
        self.at_network = waits_for_network(thread)


class Watchdog:
    """Counts for how long each piece of author code has run.

    Args:
        look_s: seconds between two looks.
        interrupt: interrupts what runs in a thread.
    """

    def __init__(self, look_s: float = _LOOK_S, interrupt: Callable[[int], None] | None = None) -> None:
        self.look_s = look_s
        self.end: Callable[[str], None] | None = None
        self.has_alarm = False
        self._interrupt = interrupt or interrupted
        self._looked_s = monotonic(), process_time()
        self._seen: dict[int, tuple[Running, float]] = {}

    def look(self) -> None:
        """Count one more look for all that still runs, and interrupt what has run for too long.

        Looks that could not be are counted too, as far as this process has computed meanwhile.
        """
        now_s = monotonic(), process_time()
        missed_s = min(now - before for now, before in zip(now_s, self._looked_s, strict=True))
        self._looked_s = now_s
        if self.has_alarm:
            self._wind()
        _interrupt_left()
        seen, self._seen = self._seen, {}
        left = {thread.ident for thread in _left}
        for thread, now in list(running.items()):
            if now is None or thread in left:  # nobody waits for what was left
                continue
            before, looks = seen.get(thread, (None, 0.0))
            more = max(1.0, missed_s / self.look_s)
            looks, earlier = (looks + more, looks) if before is now else (0.0, 0.0)
            self._seen[thread] = (now, looks)
            limit = max(now[2] / self.look_s, 1.0)
            if looks >= limit:
                ends = looks >= limit + min(limit, _GRACE_LOOKS)
                self._late(thread, now, is_new=earlier < limit, ends=ends)

    def _late(self, thread: int, now: Running, *, is_new: bool, ends: bool) -> None:
        """Interrupt what runs in a thread. Args: ends: it has had its time to end."""
        if is_new:
            message = f"{_name(now)} has not returned within {now[2]:g} s; it is at {place_in(thread)}"
            logger.error("%s", message)
            _overdue[thread] = now, message
        self._interrupt(thread)
        if self.end is not None and ends:
            try:
                self.end(_overdue[thread][1])
            finally:
                logging.shutdown()
                os._exit(EXIT_HUNG)

    def alarm(self, number: int, frame: FrameType | None) -> None:
        """What the signal does in the main thread. Raises: Hung if what runs there is to be interrupted.

        Code that has just returned is left alone: its end must be noted, or it would count as hung for ever.
        """
        thread = get_ident()
        now = None if frame is not None and frame.f_code.co_filename in _NOTING else running.get(thread)
        if now is not None and _overdue.get(thread, (None, ""))[0] is now:
            raise Hung

    def set_alarm(self) -> None:
        """Let the signal call `alarm`; in the main thread."""
        if signal.getsignal(signal.SIGVTALRM) == signal.SIG_DFL:  # else it is somebody's
            signal.signal(signal.SIGVTALRM, self.alarm)
            # An interpreter that ends gives signals back their default, and that of this one ends the process.
            atexit.register(signal.signal, signal.SIGVTALRM, signal.SIG_IGN)
            self.has_alarm = True
            self._wind()

    def _wind(self) -> None:
        """Let the alarm come if the next looks do not, however many threads compute."""
        signal.setitimer(signal.ITIMER_VIRTUAL, 2 * self.look_s * (os.cpu_count() or 1), self.look_s)

    def run(self, stop: threading.Event) -> None:
        """Look until told to stop."""
        while not stop.wait(self.look_s):
            self.look()
            _raise_in_others(self.look_s / 4)


def interrupted(thread: int) -> None:
    """Have `Hung` raised in a thread, as soon as it runs Python code, or waits for what a signal ends."""
    if _watchdog.has_alarm and thread == threading.main_thread().ident:
        signal.pthread_kill(thread, signal.SIGVTALRM)
    else:
        _to_raise.add(thread)


def _raise_in_others(window_s: float) -> None:
    """Raise `Hung` in the threads that are to be interrupted, if they run Python code within a while.

    What a thread has not taken by then is withdrawn: as long as it waits there, every thread of the process runs
    slowly, and code that is profiled stands still (CPython 3.11).
    """
    threads = [*_to_raise]
    _to_raise.clear()
    if not threads:
        return
    for thread in threads:
        _set_exception(thread, ctypes.py_object(Hung))
    sleep(window_s)
    for thread in threads:
        _set_exception(thread, None)
    try:  # the interpreter forgets that there was one where a thread takes one
        _set_exception(get_ident(), ctypes.py_object(Hung))
        while True:
            sleep(0)
    except Hung:
        pass


def _set_exception(thread: int, exception: Any) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)


_watchdog = Watchdog()
_thread: threading.Thread | None = None


def start() -> None:
    """Begin to look, if nothing does yet in this process. Called in the main thread, code there can be interrupted."""
    global _thread
    if _thread is None:
        os.register_at_fork(after_in_child=_forget)
        _thread = threading.Thread(target=_watchdog.run, args=(threading.Event(),), daemon=True, name="watchdog")
        _thread.start()
    if not _watchdog.has_alarm and _HAS_ALARM and get_ident() == threading.main_thread().ident:
        _watchdog.set_alarm()


def _forget() -> None:
    """A forked process has none of its parent's threads."""
    global _thread
    _thread = None
    running.clear()
    _overdue.clear()
    _left.clear()
    _to_raise.clear()


def leave(thread: threading.Thread) -> bool:
    """Nobody waits for what a thread does: it is interrupted until it ends.

    Returns: whether it waits for another machine.
    """
    number = thread.ident
    if number is None or not thread.is_alive():
        return False
    _left[thread] = 0
    start()
    return waits_for_network(number)


def num_left() -> int:
    """Threads that nobody waits for and that go on."""
    for thread in list(_left):
        if not thread.is_alive():
            _left.pop(thread, None)
    return len(_left)


def _interrupt_left() -> None:
    num_left()
    for thread, times in list(_left.items()):
        if times < _GRACE_LOOKS and thread.ident is not None:
            _left[thread] = times + 1
            _to_raise.add(thread.ident)


def end_when_hung(say: Callable[[str], None] | None) -> None:
    """End this process with exit code 4 once author code hangs and cannot be interrupted; for commands.

    Args: say: shows the message to the user, before the process ends; None lets the process go on.
    """
    _watchdog.end = say


def end_in_spite_of_threads(code: int, say: Callable[[str], None], patience_s: float = _PATIENCE_S) -> None:
    """Let this process, which ends now, end also where threads of author code go on; for commands.

    Python waits for ever for threads such as those of an executor of an author's own.

    Args:
        code: exit status.
        say: shows what is left to the user.
        patience_s: seconds for them to end by themselves.
    """

    def end() -> None:
        sleep(patience_s)
        left = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
        if not left:
            return
        try:
            place = place_in(left[0].ident or 0)
            say(f"threads that do not end: {len(left)}, one is at {place}. The process ends without them")
            logging.shutdown()
            sys.stdout.flush()
        finally:
            os._exit(code)

    threading.Thread(target=end, daemon=True, name="end").start()


def ends_when_hung() -> bool:
    """Whether this process ends once author code hangs."""
    return _watchdog.end is not None


def limit_of(env: Any) -> float:
    """Seconds that code of an environment may take: its `hook_timeout_s`, if it has one."""
    limit_s: float = getattr(env, "hook_timeout_s", HOOK_TIMEOUT_S)
    return limit_s


def _name(hung: Running) -> str:
    owner, what, _ = hung
    name = what if isinstance(what, str) else f"tool {what.name!r}"
    owner = getattr(getattr(what, "function", None), "__self__", owner)
    return f"{name} of {type(owner).__name__}" if owner is not None else name


def place_in(thread: int) -> str:
    """`file:line in function` of the deepest frame of the author's own code in a thread."""
    frame = sys._current_frames().get(thread)
    return "an unknown place" if frame is None else place_of(frame)


def place_of(frame: FrameType) -> str:
    """`file:line in function` of the deepest frame of the author's own code."""
    frames = [f for f in traceback.extract_stack(frame) if not f.filename.startswith((*_OURS, "<frozen"))]
    own = [f for f in frames if not f.filename.startswith(INSTALLED)] or frames
    return f"{own[-1].filename}:{own[-1].lineno} in {own[-1].name}"


def waits_for_network(thread: int) -> bool:
    """Whether the code that runs in a thread waits for another machine."""
    frame = sys._current_frames().get(thread)
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__") in _WAITS
