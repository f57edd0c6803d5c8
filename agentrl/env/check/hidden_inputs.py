"""Checks that an episode reads no hidden input: the clock, the system's entropy, a global generator."""

from __future__ import annotations

import inspect
import os
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np

from agentrl.env.base import Env
from agentrl.env.check.determinism import SEED_FIX
from agentrl.env.check.player import Behaviour, Start, Subject, chance, oracle, play_on
from agentrl.env.check.report import Finding
from agentrl.file_modules import INSTALLED

_CLOCK_FIX = "make time part of the task's data, or count turns; use `time.perf_counter` for measuring only"
_CLOCKS = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime"},
    "datetime": {"now", "utcnow", "today"},
}
_ENTROPY = {"urandom", "uuid1", "uuid4", "token_hex", "token_bytes", "token_urlsafe", "randbelow"}


def check_inputs(subject: Subject) -> Iterator[Finding]:
    """An episode reads neither the clock, nor the operating system's entropy, nor a global generator."""
    watch = _Watch(subject.env_class)
    globals_used: set[str] = set()
    plays: list[tuple[Behaviour, Start]] = [(chance(i), start) for i, start in enumerate(subject.starts[:4])]
    if hasattr(subject.env_class, "oracle"):
        plays.append((oracle, subject.starts[0]))
    for behaviour, start in plays:
        subject.run(_watched(subject, behaviour, start, watch, globals_used), "an episode")
    for name, place in sorted(watch.seen.items()):
        if name.split(".")[-1] in _ENTROPY:
            yield Finding("global-rng", "error", f"{name} is called at {place}", SEED_FIX)
        else:
            yield Finding("clock", "error", f"{name} is called at {place}", _CLOCK_FIX)
    for name in sorted(globals_used):
        yield Finding("global-rng", "error", f"an episode draws from (or seeds) the generator of `{name}`", SEED_FIX)


async def _watched(subject: Subject, behaviour: Behaviour, start: Start, watch: _Watch, globals_used: set[str]) -> None:
    env = subject.create()
    saved = random.getstate(), np.random.get_state()
    # Begin from an unusual state, so that an episode that always sets the same seed is seen to change it.
    random.seed(2**40 + 7)
    np.random.seed(2**31 + 7)
    before = _global_generators()
    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        await play_on(env, behaviour, start)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        await env.aclose()
        globals_used.update(name for name, state in _global_generators().items() if state != before[name])
        random.setstate(saved[0])
        np.random.set_state(saved[1])


def _global_generators() -> dict[str, Any]:
    name, keys, position, *gauss = np.random.get_state()
    return {"random": random.getstate(), "numpy.random": (name, np.asarray(keys).tobytes(), position, gauss)}


class _Watch:
    """A profile function that notes where the author's code asks for the time or for entropy."""

    def __init__(self, env_class: type[Env]) -> None:
        self.seen: dict[str, str] = {}
        self.home = _home_of(env_class)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            name = _clock_name(argument)
            if name is not None and self._is_authors(frame.f_code):
                self._note(name, frame)
        elif event == "call" and frame.f_code.co_name in _ENTROPY and frame.f_back is not None:
            module = frame.f_globals.get("__name__", "")
            if module in ("uuid", "secrets", "random") and self._is_authors(frame.f_back.f_code):
                self._note(f"{module}.{frame.f_code.co_name}", frame.f_back)

    def _is_authors(self, code: CodeType) -> bool:
        """Whether code is by the environment's author, not of a library or of AgentRL."""
        name = code.co_filename
        if name.startswith((_OURS, "<frozen")):
            return False
        return name.startswith(self.home) or not name.startswith(("<", *INSTALLED))

    def _note(self, name: str, frame: FrameType) -> None:
        self.seen.setdefault(name, f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")


def _clock_name(function: Any) -> str | None:
    """A name such as `time.time`; None for a function that reads neither the clock nor entropy."""
    name = getattr(function, "__name__", "")
    owner = getattr(function, "__self__", None)
    module = getattr(function, "__module__", None) or getattr(owner, "__module__", None) or ""
    if module == "posix" and name == "urandom":
        return "os.urandom"
    return f"{module}.{name}" if name in _CLOCKS.get(module, ()) else None


_OURS = str(Path(__file__).resolve().parents[2])


def _home_of(env_class: type[Env]) -> str:
    """The author's folder, or the author's file if it is installed as a single module."""
    try:
        path = Path(inspect.getfile(env_class)).resolve()
    except (TypeError, OSError):  # a class of a notebook
        return "<"
    return str(path) if os.path.join(path.parent, "") in INSTALLED else str(path.parent)
