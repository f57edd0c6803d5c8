"""How long the waits are, what ends the attempts, and every form of `Retry-After`."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.wire.retry import Failed, NoMoreAttempts, Retry, retry_after_s, with_retries

NOW = datetime(1994, 11, 6, 8, 49, 30, tzinfo=UTC)


class Drawn(random.Random):
    """Draws a fixed fraction of each range."""

    def __init__(self, fraction: float) -> None:
        super().__init__(0)
        self.fraction = fraction

    def uniform(self, a: float, b: float) -> float:
        return a + self.fraction * (b - a)


# Waits.


@pytest.mark.parametrize(
    ("jitter", "shortest", "longest"),
    [("full", [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 3.0]), ("half", [0.5, 1.0, 1.5, 1.5], [1.0, 2.0, 3.0, 3.0])],
)
def test_backoff_doubles_up_to_its_longest(jitter, shortest, longest):
    retry = Retry(attempts=5, base_s=1.0, max_wait_s=3.0, jitter=jitter)
    assert [retry.wait_s(n, None, Drawn(0.0)) for n in (1, 2, 3, 4)] == shortest
    assert [retry.wait_s(n, None, Drawn(1.0)) for n in (1, 2, 3, 4)] == longest


def test_no_wait_is_shorter_than_the_server_asks():
    full, half = Retry(base_s=1.0), Retry(base_s=1.0, jitter="half")
    assert [full.wait_s(1, asked_s, Drawn(1.0)) for asked_s in (0.2, 5.0)] == [1.0, 5.0]
    # After a pause that many requests share, a quarter of the backoff, or of the pause, spreads them.
    assert [half.wait_s(1, asked_s, Drawn(1.0)) for asked_s in (0.2, 5.0)] == [0.25, 5.25]
    assert half.wait_s(1, 5.0, Drawn(0.0)) == 5.0


def test_a_great_many_failures_do_not_overflow():
    assert Retry(base_s=1.0, max_wait_s=20.0).wait_s(10_000, None, Drawn(1.0)) == 20.0


@pytest.mark.parametrize(("wrong", "words"), [({"attempts": 0}, "at least 1"), ({"jitter": "none"}, "full, half")])
def test_settings_that_cannot_work_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Retry(**wrong)


# Attempts.


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr("agentrl.wire.retry.asyncio.sleep", sleep)
    return made


def attempt_of(*outcomes):
    """An attempt that gives these outcomes in order."""
    left: Iterator[object] = iter(outcomes)

    async def attempt():
        outcome = next(left)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return attempt


async def test_attempts_go_on_until_one_succeeds(waits):
    told = []
    attempt = attempt_of(Failed("busy"), Failed("slow down", 5.0), "well")
    result = await with_retries(
        attempt, Retry(base_s=1.0), Drawn(1.0), before_wait=lambda *given: told.append((given[0].reason, *given[1:]))
    )
    assert result == "well"
    assert waits == [1.0, 5.0]
    assert told == [("busy", 1, 1.0), ("slow down", 2, 5.0)]


async def test_the_last_failure_is_kept_and_not_waited_for(waits):
    with pytest.raises(NoMoreAttempts, match="b") as caught:
        await with_retries(attempt_of(Failed("a"), Failed("b")), Retry(attempts=2), Drawn(0.5))
    end = caught.value
    assert (end.last.reason, end.attempts, end.asked_too_long) == ("b", 2, False)
    assert len(waits) == 1


@pytest.mark.parametrize(("retry", "most"), [(Retry(), 20.0), (Retry(max_asked_s=300.0), 300.0)])
async def test_a_server_that_asks_for_too_long_a_wait_ends_the_attempts(waits, retry, most):
    assert await with_retries(attempt_of(Failed("", most), "well"), retry, Drawn(0.0)) == "well"
    assert waits == [most]
    with pytest.raises(NoMoreAttempts) as caught:
        await with_retries(attempt_of(Failed("", most + 1)), retry, Drawn(0.0))
    assert (caught.value.attempts, caught.value.asked_too_long) == (1, True)


async def test_an_error_of_the_attempt_is_not_retried(waits):
    with pytest.raises(LookupError):
        await with_retries(attempt_of(Failed("a"), LookupError()), Retry(), Drawn(0.0))
    assert len(waits) == 1


# What a response asks for.


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": " 0.4 "}, 0.4),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After-Ms": "500"}, 0.5),
        ({"retry-after-ms": "500", "Retry-After": "7"}, 0.5),
        ({"retry-after-ms": "soon", "Retry-After": "7"}, 7.0),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}, 7.0),
        ({"Retry-After": "Sunday, 06-Nov-94 08:49:37 GMT"}, 7.0),
        ({"Retry-After": "Sun Nov  6 08:49:37 1994"}, 7.0),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 -0000"}, 7.0),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:00 GMT"}, 0.0),
        ({"Retry-After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, None),
    ],
)
def test_every_form_in_which_a_server_asks_for_a_wait(headers, seconds):
    assert retry_after_s(headers, NOW) == seconds


def test_a_date_is_compared_with_the_present_by_default():
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert 3000 < (retry_after_s({"Retry-After": later}) or 0) <= 3600


@given(st.text())
def test_any_header_gives_a_wait_or_none(text):
    for name in ("Retry-After", "retry-after-ms"):
        seconds = retry_after_s({name: text}, NOW)
        assert seconds is None or (seconds >= 0 and math.isfinite(seconds))
