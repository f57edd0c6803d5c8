"""The thread that writes status.json: it tells of parts in progress, and never ends a run."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentrl.training.progress import Progress
from agentrl.training.status.beat import Beat, Now
from agentrl.training.status.heartbeat import Heartbeat

STAGES: Any = [SimpleNamespace(name="rl", total=9)]


def now() -> Now:
    return Now(0, 3, 1.0, 2.0, None)


def told_by(path: Path) -> Beat:
    found = Beat.read(path)
    assert found is not None
    return found


def test_a_part_goes_on_until_another_one_is_reported(tmp_path: Path) -> None:
    told, path = list[Progress](), tmp_path / "status.json"
    heart = Heartbeat(path, STAGES, told.append)
    with heart.of(now):
        for number in (2, 3):
            heart.tell(Progress("eval", number, 9))
    part = told_by(path).part
    assert part is not None
    assert (part.name, part.number, part.total, part.first) == ("eval", 3, 9, 2)
    with heart.of(now):
        heart.tell(Progress("eval", 1, 9))  # the next evaluation
    part = told_by(path).part
    assert part is not None
    assert part.first == 1
    assert [progress.step for progress in told] == [2, 3, 1]


def test_it_writes_again_and_again(tmp_path: Path) -> None:
    asked, path = threading.Semaphore(0), tmp_path / "status.json"

    def counted() -> Now:
        asked.release()
        return now()

    with Heartbeat(path, STAGES, lambda progress: None, beat_s=0.01).of(counted):
        assert all(asked.acquire(timeout=30) for _ in range(3))
    assert not list(tmp_path.glob(".*")), "no half-written file stays"


def raises(error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    raise error


@pytest.mark.parametrize(
    ("error", "ended"), [(ValueError("bad"), "ValueError: bad"), (KeyboardInterrupt(), "stopped by Ctrl-C")]
)
def test_an_error_of_the_run_is_written_down(tmp_path: Path, error: BaseException, ended: str) -> None:
    path = tmp_path / "status.json"
    with pytest.raises(type(error)), Heartbeat(path, STAGES, lambda progress: None).of(now):
        raises(error)
    assert told_by(path).ended == ended


def test_what_cannot_be_written_is_said_once_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heart = Heartbeat(tmp_path / "absent" / "status.json", STAGES, lambda progress: None, beat_s=0.01)
    with caplog.at_level(logging.WARNING), heart.of(now):
        pass
    assert len(caplog.records) == 1
    assert "the run goes on" in caplog.text
