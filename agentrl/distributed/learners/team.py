"""The ranks of a learner, as rank 0 has them: it starts the others, says what all do, and notices who is lost.

A team that has lost a rank is at its end: the others wait for it in an exchange. They are then killed, and the cause is
raised in this process.
"""

from __future__ import annotations

import logging
import pickle
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import nn

from agentrl.distributed.child import killed, start_child
from agentrl.distributed.learners.calls import Begin, Call, Gone, Join, Stop
from agentrl.distributed.learners.group import backend_of, interface, join_group, meeting_place
from agentrl.distributed.messages import Alive, Broken, Logged, Ready
from agentrl.distributed.shared import Packed
from agentrl.errors import ConfigError, LearnerLost
from agentrl.learning.parallel.ranks import Ranks
from agentrl.registry import files_named

_START_S, _STOP_S, _CAUSE_S = 600.0, 15.0, 5.0
_ALIVE_S, _LONGEST_SILENCE_S = 5.0, 120.0
_LOOK_S = 0.5
_PROCESS = "agentrl.distributed.learners.follower"


@dataclass
class _Member:
    """A rank other than 0."""

    rank: int
    process: subprocess.Popen[bytes]
    connection: Connection
    is_ready: bool = False
    is_gone: bool = False
    cpu_s: float = 0.0
    silent_s: float = 0.0

    def __str__(self) -> str:
        return f"rank {self.rank} of the learner (process {self.process.pid})"


class Team:
    """Rank 0 is this process. A context manager; the others run as long as it lasts.

    Args:
        model: a whole one, which each rank begins with.
        size: how many ranks.
        shard: whether they will share the weights.
        on_lost: called by another thread if a rank is lost while no call is under way.
    Attributes:
        ranks: this process and the others.
        lost: why the team is at its end; None while it is not.
    """

    def __init__(self, model: nn.Module, size: int, *, shard: bool, on_lost: Callable[[], None] = lambda: None) -> None:
        self._model, self._size, self._shard, self._on_lost = model, size, shard, on_lost
        self._members: list[_Member] = []
        self._changed = threading.Condition()
        self._calling = self._closing = False
        self._gone: tuple[float, Exception] | None = None
        self.lost: Exception | None = None
        self.ranks: Ranks

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the other ranks, as last reported."""
        return sum(member.cpu_s for member in self._members)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException as error:
            lost = self.lost
            self.close()
            if isinstance(error, RuntimeError) and lost is not None:
                raise lost from error
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> None:
        store = meeting_place(self._size)
        packed = Packed(self._model)
        try:
            for rank in range(1, self._size):
                process, connection = start_child(_PROCESS, packed.fileno(), _ALIVE_S, interface())
                self._members.append(_Member(rank, process, connection))
                connection.send(self._join(rank, store.port))
        finally:
            packed.close()
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="learners")
        self._watcher.start()
        with self._changed:
            ready = self._changed.wait_for(lambda: self.lost or all(m.is_ready for m in self._members), _START_S)
        self._check()
        if not ready:
            raise LearnerLost(f"the ranks of the learner were not ready after {_START_S:g} s")
        join_group(self._join(0, store.port), store)
        self.ranks = Ranks.of()

    def _join(self, rank: int, port: int) -> Join:
        here = next(self._model.parameters()).device
        device = f"cuda:{rank}" if here.type == "cuda" else here.type
        return Join(
            rank=rank,
            size=self._size,
            port=port,
            backend=backend_of(here),
            device=device,
            whole_device="cpu" if self._shard else device,
            threads=torch.get_num_threads(),
        )

    # Calls.

    @contextmanager
    def call(self, call: Call) -> Iterator[None]:
        """Let the other ranks do something; this process does the same within the context.

        Raises: LearnerLost if a rank ends meanwhile, or has ended before; what a rank raised; ConfigError if the call
            holds something that other processes cannot import.
        """
        message = _message(call)
        self._calling = True
        try:
            self._check()
            self._send(message)
            yield
        except BaseException as error:
            cause = self._cause_of(error)
            self._end(cause or error)
            if cause is None or cause is error:
                raise
            raise cause from error
        finally:
            self._calling = False

    def _check(self) -> None:
        if self.lost is not None:
            raise self.lost

    def _send(self, message: tuple[tuple[str, ...], bytes]) -> None:
        for member in self._members:
            with suppress(OSError):  # the watcher notices who has gone
                member.connection.send(message)

    def _cause_of(self, error: BaseException) -> Exception | None:
        """What ended an exchange; None if it was something in this process."""
        if not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError):
            return None
        with self._changed:
            self._changed.wait_for(lambda: self.lost, _CAUSE_S)
        return self.lost

    # What the other ranks tell, in a thread of its own: this process may be waiting for them.

    def _watch(self) -> None:
        looked_at = time.monotonic()
        while not self._closing:
            heard = {m.connection: m for m in self._members if not m.connection.closed}
            for connection in wait(list(heard), _LOOK_S):
                self._hear(heard[connection])  # type: ignore[index]
            passed_s, looked_at = time.monotonic() - looked_at, time.monotonic()
            self._look(min(passed_s, 2 * _LOOK_S))

    def _hear(self, member: _Member) -> None:
        member.silent_s = 0.0
        try:
            message = member.connection.recv()
        except (EOFError, OSError):
            member.connection.close()
            if not (member.is_gone or self._closing):
                self._end(LearnerLost(f"{member} {killed(member.process)}, so the update cannot be finished. {_GO_ON}"))
            return
        self._take(member, message)

    def _take(self, member: _Member, message: Any) -> None:
        if isinstance(message, Alive):
            member.cpu_s = message.cpu_s
        elif isinstance(message, Logged):
            logging.getLogger(message.name).log(message.level, message.text, *message.values)
        elif isinstance(message, Ready):
            with self._changed:
                member.is_ready = True
                self._changed.notify_all()
        elif isinstance(message, Broken):
            self._end(message.error)
        elif isinstance(message, Gone):
            member.is_gone = True
            self._gone = self._gone or (time.monotonic(), message.error)

    def _look(self, passed_s: float) -> None:
        """End a team of which a rank is silent, or whose ranks cannot reach each other though all run.

        Args: passed_s: since the last look, without time in which this process itself stood still.
        """
        if self._gone is not None and time.monotonic() - self._gone[0] > _CAUSE_S / 2:
            self._end(LearnerLost(f"the ranks of the learner lost each other: {self._gone[1]}. {_GO_ON}"))
        for member in self._members:
            member.silent_s += passed_s
            if member.silent_s > _LONGEST_SILENCE_S:
                silent = f"{member} gave no sign of life for {_LONGEST_SILENCE_S:g} s, and was killed. {_GO_ON}"
                self._end(LearnerLost(silent))

    def _end(self, why: BaseException) -> None:
        """Kill the other ranks; the first cause counts."""
        with self._changed:
            if self.lost is not None or self._closing:
                return
            self.lost = why if isinstance(why, Exception) else LearnerLost("the learner was interrupted")
            is_idle = not self._calling
            self._changed.notify_all()
        for member in self._members:
            member.process.kill()
        if is_idle:
            self._on_lost()

    def close(self) -> None:
        """End the other ranks."""
        if self.lost is None and hasattr(self, "ranks"):
            self._send(_message(Stop()))
            for member in self._members:
                with suppress(subprocess.TimeoutExpired):
                    member.process.wait(_STOP_S)
        with self._changed:
            self._closing = True
        for member in self._members:
            member.process.kill()
            member.process.wait()
        if self._members and hasattr(self, "_watcher"):
            self._watcher.join()
        for member in self._members:
            member.connection.close()
        if hasattr(self, "ranks"):
            with suppress(RuntimeError):  # the other ends of the group are gone
                dist.destroy_process_group()


_GO_ON = (
    "A process that the system kills often had too little memory. Nothing that was saved is lost: go on with "
    "`agentrl train --resume`"
)
_WHERE = "put it into a module and import that, or name it './file.py:Class' (scale.learners = 1 needs neither)"


def _message(call: Call) -> tuple[tuple[str, ...], bytes]:
    """The files that another process has to load first, and the call. Raises: ConfigError."""
    what = f"the {type(getattr(call, 'objective', call)).__name__} of a learner of several ranks"
    try:
        written = pickle.dumps(call)
    except Exception as error:  # author's objects can raise anything
        raise ConfigError(f"{what} cannot be sent to other processes: {error}; {_WHERE}") from error
    if isinstance(call, Begin) and b"__main__" in written:
        raise ConfigError(f"{what} is defined in the program that runs; {_WHERE}")
    return files_named(written), written
