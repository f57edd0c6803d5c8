"""How often a failed request is sent again, and how long to wait before that.

Owns the loop, the waiting times and the reading of `Retry-After`. The caller sends the request, decides
which failures are worth another attempt, and turns `NoMoreAttempts` into an error of its own.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, TypeVar, get_args

T = TypeVar("T")
Jitter = Literal["full", "half"]
# Doubled 64 times, any first wait is above any longest wait; more would only overflow.
_MAX_DOUBLINGS = 64
_SPREAD = 0.25


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential backoff with jitter, for 408, 429, 5xx and connection errors.

    `HttpApi` sends a POST or PATCH again only if the server cannot have carried it out (no connection,
    429, 503), unless `unsafe_methods` is set.

    Attributes:
        attempts: requests in total; 1 means that no request is sent again.
        base_s: longest backoff before the second attempt, in seconds; it doubles with each further attempt.
        max_wait_s: longest backoff, in seconds. A server that asks for a longer wait ends the attempts.
        unsafe_methods: send POST and PATCH again after any failure.
        max_asked_s: longest wait that a server may ask for, in seconds; None means `max_wait_s`.
        jitter: `full` waits between 0 and the backoff. It spreads clients that know nothing of each
            other (environments that call one API) best. `half` waits between half the backoff and all of
            it, so that the attempts outlast the restart of a server; after a wait that the server asked
            for, it adds a short spread, because requests that share one pause would all return at once.
    """

    attempts: int = 4
    base_s: float = 0.5
    max_wait_s: float = 20.0
    unsafe_methods: bool = False
    max_asked_s: float | None = None
    jitter: Jitter = "full"

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")
        if self.jitter not in get_args(Jitter):
            raise ValueError(f"jitter must be one of {', '.join(get_args(Jitter))}, got {self.jitter!r}")

    @property
    def longest_asked_s(self) -> float:
        """The longest wait that a server may ask for, in seconds."""
        return self.max_wait_s if self.max_asked_s is None else self.max_asked_s

    def wait_s(self, failures: int, asked_s: float | None, rng: random.Random) -> float:
        """Seconds to wait before the next attempt.

        Args:
            failures: attempts that have failed so far, from 1.
            asked_s: what the server asks for; None if it asks for nothing.
            rng: draws the jitter.
        Source: Brooker 2015, "Exponential Backoff And Jitter" (AWS Architecture Blog).
        """
        backoff_s = min(self.max_wait_s, self.base_s * 2.0 ** min(failures - 1, _MAX_DOUBLINGS))
        if self.jitter == "full":
            return max(rng.uniform(0, backoff_s), asked_s or 0.0)
        if asked_s is None:
            return backoff_s * rng.uniform(0.5, 1.0)
        return asked_s + min(asked_s, backoff_s) * rng.uniform(0.0, _SPREAD)


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that failed and may be repeated.

    Attributes:
        reason: what went wrong, for logs and errors; without secrets.
        asked_s: how long the server asks to wait, in seconds; None if it asks for nothing.
    """

    reason: str
    asked_s: float | None = None


class NoMoreAttempts(Exception):
    """No further attempt is made: all have failed, or the server asks for too long a wait.

    Attributes:
        last: the last failure.
        attempts: how many attempts were made.
        asked_too_long: whether the server asks for a wait above `Retry.longest_asked_s`.
    """

    def __init__(self, last: Failed, attempts: int, *, asked_too_long: bool) -> None:
        super().__init__(last.reason)
        self.last, self.attempts, self.asked_too_long = last, attempts, asked_too_long


async def with_retries(
    attempt: Callable[[], Awaitable[T | Failed]],
    retry: Retry,
    rng: random.Random,
    *,
    before_wait: Callable[[Failed, int, float], None] | None = None,
) -> T:
    """Make attempts until one succeeds.

    Args:
        attempt: sends the request once; returns `Failed` where another attempt may help.
        retry: how many attempts, and how long the waits are.
        rng: draws the jitter.
        before_wait: called before each wait with the failure, the number of failures so far and the
            seconds. A caller whose requests share one pause closes its gate here.
    Raises: NoMoreAttempts, and what `attempt` raises.
    """
    failures = 0
    while True:
        outcome = await attempt()
        if not isinstance(outcome, Failed):
            return outcome
        failures += 1
        asked_too_long = outcome.asked_s is not None and outcome.asked_s > retry.longest_asked_s
        if asked_too_long or failures == retry.attempts:
            raise NoMoreAttempts(outcome, failures, asked_too_long=asked_too_long)
        wait_s = retry.wait_s(failures, outcome.asked_s, rng)
        if before_wait is not None:
            before_wait(outcome, failures, wait_s)
        await asyncio.sleep(wait_s)


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """How long a response asks to wait.

    Args:
        headers: of the response; upper and lower case of the names do not matter. `retry-after-ms`
            (milliseconds) counts before `Retry-After` (seconds, or an HTTP date in any of its three forms).
        now: the time that a date is compared with; the present by default.
    Returns: seconds, 0 or more; None if no header says it in a readable way.
    Source: RFC 9110, sections 5.6.7 (dates) and 10.2.3 (Retry-After).
    """
    lowered = {name.lower(): value.strip() for name, value in headers.items()}
    milliseconds = _number(lowered.get("retry-after-ms", ""))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    given = lowered.get("retry-after", "")
    seconds = _number(given)
    return _seconds_until(given, now or datetime.now(UTC)) if seconds is None else max(0.0, seconds)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _seconds_until(date: str, now: datetime) -> float | None:
    try:
        when = parsedate_to_datetime(date)
    except (ValueError, TypeError, OverflowError):
        return None
    # HTTP dates are in UTC, and one of the three forms does not say so.
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())
