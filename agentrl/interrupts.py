"""Tells a program that is being stopped from author code that raises what stops programs.

`KeyboardInterrupt`, `SystemExit` and `GeneratorExit` stop a run where they come from outside: from a signal such as
Ctrl-C, or from an event loop that closes a coroutine. An author's code can raise them as well, and then it has failed
as with any other exception. Python marks neither, so this module reads the traceback.
"""

from __future__ import annotations

import dis
import signal
from collections.abc import Iterator
from types import CodeType, TracebackType
from typing import Any

_RAISE = dis.opmap["RAISE_VARARGS"]
# Raises KeyboardInterrupt for a signal that it had taken by cancelling its task.
_RUNNER = "asyncio.runners"


def is_from_outside(error: BaseException) -> bool:
    """Whether a signal or an event loop stops what runs, and not a `raise` of an author's.

    asyncio's handler of SIGINT cancels the task of a run, and raises at the second signal; then its frame is in the
    traceback. Python's own handler, which is in place where no event loop runs, raises with no frame of its own, in the
    middle of any code.
    """
    if isinstance(error, SystemExit):
        return _is_of_handler(error)
    if isinstance(error, KeyboardInterrupt):
        if _is_of_handler(error):
            return True
        handler = signal.getsignal(signal.SIGINT)
        return not _is_raised(error) and (handler is signal.default_int_handler or not callable(handler))
    return isinstance(error, GeneratorExit) and not _is_raised(error)


def _is_raised(error: BaseException) -> bool:
    """Whether a `raise` statement is where an exception began."""
    places = [*_places(error)]
    return bool(places) and places[-1].tb_frame.f_code.co_code[places[-1].tb_lasti] == _RAISE


def _is_of_handler(error: BaseException) -> bool:
    """Whether it was raised in what a signal calls."""
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    frames = [place.tb_frame for place in _places(error)]
    return any(f.f_code in codes or f.f_globals.get("__name__") == _RUNNER for f in frames)


def _places(error: BaseException) -> Iterator[TracebackType]:
    place = error.__traceback__
    while place is not None:
        yield place
        place = place.tb_next


def _code_of(handler: Any) -> CodeType | None:
    """The code of a function, a method, a partial or an object that can be called; None of what is not Python's."""
    function = getattr(handler, "func", handler)  # asyncio's is a partial
    if not hasattr(function, "__code__") and not isinstance(function, type):
        function = getattr(function, "__call__", None)  # noqa: B004 (its code is wanted)
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None
