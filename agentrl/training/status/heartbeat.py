"""The thread of a run that writes status.json. The run does not depend on it: what cannot be written is left out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from agentrl.distributed.state import resident_bytes
from agentrl.interrupts import is_from_outside
from agentrl.training.progress import OnProgress, Progress
from agentrl.training.status.beat import BEAT_S, Beat, Now, Part, PlannedStage, Process

logger = logging.getLogger(__name__)
_MOST_SHOWN = 500


class Planned(Protocol):
    """A stage, as far as the plan shows it."""

    @property
    def name(self) -> str: ...
    @property
    def total(self) -> int: ...


class Heartbeat:
    """Writes every few seconds where a run is, from a thread of its own: an update stops the run's event loop.

    Args:
        path: of status.json.
        stages: of the run, in order.
        on_progress: is told what `tell` is told.
        beat_s: seconds between two writings.
    """

    def __init__(self, path: Path, stages: Sequence[Planned], on_progress: OnProgress, beat_s: float = BEAT_S) -> None:
        self._path, self._on_progress, self._beat_s = path, on_progress, beat_s
        self._stages = tuple(PlannedStage(stage.name, stage.total) for stage in stages)
        self._process, self._began_s = Process.own(), time.time()
        self._part: Part | None = None
        self._ends = threading.Event()
        self._was_written = True

    def tell(self, progress: Progress) -> None:
        """Take what the run reports."""
        before = self._part
        if before is not None and before.name == progress.stage and before.number <= progress.step:
            self._part = replace(before, number=progress.step, total=progress.total)
        else:
            self._part = Part(progress.stage, progress.step, progress.total, progress.step, time.time())
        self._on_progress(progress)

    @contextmanager
    def of(self, now: Callable[[], Now]) -> Iterator[None]:
        """Write while the run goes on, and once more at its end.

        Args: now: asked from another thread.
        """
        thread = threading.Thread(target=self._run, args=(now,), daemon=True, name="heartbeat")
        ended = ""
        thread.start()
        try:
            yield
        except BaseException as error:
            is_stopped = isinstance(error, KeyboardInterrupt) and is_from_outside(error)
            ended = "stopped by Ctrl-C" if is_stopped else f"{type(error).__name__}: {error}"[:_MOST_SHOWN]
            raise
        finally:
            self._ends.set()
            thread.join()
            self._write(now, ended)

    def _run(self, now: Callable[[], Now]) -> None:
        while True:
            self._write(now)
            if self._ends.wait(self._beat_s):
                return

    def _write(self, now: Callable[[], Now], ended: str = "") -> None:
        try:
            self._beat(now(), ended).write(self._path)
            self._was_written = True
        except Exception as error:  # a full disk, say: the run itself notices what matters to it
            if self._was_written:
                logger.warning("%s cannot be written (%s); the run goes on", self._path, error)
            self._was_written = False

    def _beat(self, now: Now, ended: str) -> Beat:
        return Beat(
            process=self._process,
            began_s=round(self._began_s, 3),
            written_s=round(time.time(), 3),
            beat_s=self._beat_s,
            stages=self._stages,
            now=now,
            part=self._part,
            memory_bytes=resident_bytes(self._process.pid),
            ended=ended,
        )
