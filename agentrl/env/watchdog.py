"""Names author code that does not return: plain functions, which nothing can interrupt, and coroutines that never wait.

One daemon thread looks at what runs in every thread. It logs an error once code has run for longer than its limit.
After `end_when_hung` it also ends the process, since a loop that is blocked cannot end a run. Time counts in looks of
this thread, so a process that was stopped and goes on is not taken for a hung one. Code that holds Python's global lock
all the time (one long call into C) is not seen.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

from agentrl.file_modules import INSTALLED

logger = logging.getLogger(__name__)
EXIT_HUNG = 4
HOOK_TIMEOUT_S = 300.0
"""Seconds that author code may take by default."""
_LOOK_S = 1.0
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OURS = tuple(os.path.join(_HERE, floor, "") for floor in ("env", "policy", "rollout", "sandboxed"))

Running = tuple[Any, Any, float]
"""What runs: its owner (an environment or None), the name of a hook or a tool, and its limit in seconds."""

running: dict[int, Running | None] = {}
"""Thread -> what author code runs in it. Whoever runs such code writes a new tuple here and puts the old one back."""


class Watchdog:
    """Counts for how long each piece of author code has run.

    Args:
        look_s: seconds between two looks.
    """

    def __init__(self, look_s: float = _LOOK_S) -> None:
        self.look_s = look_s
        self.end: Callable[[str], None] | None = None
        self._seen: dict[int, tuple[Running, int]] = {}

    def look(self) -> None:
        """Count one more look for all that still runs, and report what has run for too long."""
        seen, self._seen = self._seen, {}
        for thread, now in list(running.items()):
            if now is None:
                continue
            before, looks = seen.get(thread, (None, 0))
            looks = looks + 1 if before is now else 0
            self._seen[thread] = (now, looks)
            limit_s = now[2]
            if looks and looks - 1 < limit_s / self.look_s <= looks:
                self._report(thread, now)

    def _report(self, thread: int, hung: Running) -> None:
        message = f"{_name(hung)} has not returned within {hung[2]:g} s; it is at {place_in(thread)}"
        logger.error("%s", message)
        if self.end is not None:
            try:
                self.end(message)
            finally:
                logging.shutdown()
                os._exit(EXIT_HUNG)

    def run(self, stop: threading.Event) -> None:
        """Look until told to stop."""
        while not stop.wait(self.look_s):
            self.look()


_watchdog = Watchdog()
_thread: threading.Thread | None = None


def start() -> None:
    """Begin to look, if nothing does yet in this process."""
    global _thread
    if _thread is None:
        os.register_at_fork(after_in_child=_forget)
        _thread = threading.Thread(target=_watchdog.run, args=(threading.Event(),), daemon=True, name="watchdog")
        _thread.start()


def _forget() -> None:
    """A forked process has none of its parent's threads."""
    global _thread
    _thread = None
    running.clear()


def end_when_hung(say: Callable[[str], None] | None) -> None:
    """End this process with exit code 4 once author code hangs; for commands.

    Args: say: shows the message to the user, before the process ends; None lets the process go on.
    """
    _watchdog.end = say


def ends_when_hung() -> bool:
    """Whether this process ends once author code hangs."""
    return _watchdog.end is not None


def _name(hung: Running) -> str:
    owner, what, _ = hung
    name = what if isinstance(what, str) else f"tool {what.name!r}"
    owner = getattr(getattr(what, "function", None), "__self__", owner)
    return f"{name} of {type(owner).__name__}" if owner is not None else name


def place_in(thread: int) -> str:
    """`file:line in function` of the deepest frame of the author's own code in a thread."""
    frame: FrameType | None = sys._current_frames().get(thread)
    if frame is None:
        return "an unknown place"
    frames = [f for f in traceback.extract_stack(frame) if not f.filename.startswith((*_OURS, "<frozen"))]
    own = [f for f in frames if not f.filename.startswith(INSTALLED)] or frames
    return f"{own[-1].filename}:{own[-1].lineno} in {own[-1].name}"
