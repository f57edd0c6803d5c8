"""Sessions of agents that the caller's own program runs: `agentrl.capture`. Owns the thread in which the model answers.

The sessions of one group are a `TrajectoryGroup`; `groups` gives these to a stage or to a training loop.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from anyio.from_thread import start_blocking_portal

from agentrl.errors import EnvFault, RolloutError
from agentrl.policy.base import SamplingParams
from agentrl.policy.local import LocalPolicy
from agentrl.rollout.new_folder import check_new
from agentrl.rollout.store import TrajectoryStore
from agentrl.serving.capture.episode import GAVE_UP, Episode, silence
from agentrl.serving.capture.server import CaptureServer
from agentrl.serving.capture.session import Session
from agentrl.serving.capture.tasks import AgentTasks
from agentrl.serving.chat_model import ChatModel
from agentrl.trajectory import CAPTURED, Ending, EnvRef, Labels, Task, Trajectory, TrajectoryGroup

logger = logging.getLogger(__name__)
_NAME = "agentrl"


class CapturedSession:
    """One session while an agent plays.

    Attributes:
        base_url: for clients of OpenAI's APIs.
        anthropic_url: for clients of Anthropic's.
        key: that they send.
        reward: of the session; to be set before it ends.
    """

    def __init__(self, session: Session, url: str) -> None:
        self.anthropic_url, self.key = f"{url}/s/{session.name}", session.key
        self.base_url = f"{self.anthropic_url}/v1"
        self.reward = 0.0


class Recorder:
    """Records what agents ask of a model; a context manager.

    Args:
        model: a folder, or a policy that nothing else uses meanwhile.
        out: folder whose `trajectories.jsonl` gets the sessions; None keeps them in memory alone.
        sampling: of every turn.
        max_turns: of one session.
        keep: most trajectories in memory; of more, the oldest are dropped there, and `out` has them all.
        options: of `LocalPolicy.from_folder`.
    Attributes:
        trajectories: of the sessions that ended last.
        closed: no session can begin any more.
        keep: as it was given.
    """

    def __init__(
        self,
        model: str | Path | LocalPolicy,
        *,
        out: str | Path | None = None,
        sampling: SamplingParams | None = None,
        max_turns: int = 64,
        keep: int = 10_000,
        **options: Any,
    ) -> None:
        self.policy = model if isinstance(model, LocalPolicy) else LocalPolicy.from_folder(model, **options)
        self._sampling, self._max_turns = sampling or self.policy.sampling, max_turns
        if out is not None:
            check_new(out)
            Path(out).mkdir(parents=True, exist_ok=True)
        self._store = None if out is None else TrajectoryStore(Path(out) / "trajectories.jsonl")
        self.trajectories: deque[Trajectory] = deque(maxlen=keep)
        self._groups: dict[str, list[Trajectory]] = defaultdict(list)  # not given to a source yet
        self._number, self._news = 0, threading.Lock()
        self.keep, self.closed = keep, False
        self._watchers: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        """Raises: ConfigError, or what else keeps the server from starting."""
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            self._model = self._portal.call(ChatModel, self.policy, _NAME)
            self._server = stack.enter_context(self._portal.wrap_async_context_manager(CaptureServer()))
            self._thread = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._news:
            self.closed = True
            self._tell()
        self._thread.close()
        if self._store is not None:
            self._store.close()

    @contextmanager
    def session(self, task: str = "", *, group: str = "") -> Iterator[CapturedSession]:
        """A session; its turns are recorded when the block ends.

        Args:
            task: what the agent is to do, for the record.
            group: sessions of the same group are compared with each other; the task by default.
        """
        self._number += 1
        session = Session(self._model, self._sampling, max_turns=self._max_turns, name=str(self._number))
        played = Task(task or session.name, "train", {"text": task})
        self._in_loop(self._server.proxy.add, Episode(session, AgentTasks(), played))
        found = CapturedSession(session, self._server.url)
        ending = Ending("error", "the agent raised", "author")
        try:
            yield found
            ending = Ending("answer")
        finally:
            try:
                self._in_loop(self._end, session)
            finally:
                self._record(session, played, found, ending, group or played.id)
        if not math.isfinite(found.reward):
            raise ValueError(f"reward = {found.reward!r}: expected a finite number; the session is recorded as a fault")

    async def _end(self, session: Session) -> None:
        self._server.proxy.remove(session)
        await session.end("the agent has ended")

    def _record(self, session: Session, task: Task, found: CapturedSession, ending: Ending, group: str) -> None:
        turns, fault = session.turns(), session.fault or silence(session, "the agent has ended")
        if fault is None and not math.isfinite(found.reward):
            fault = EnvFault(f"the session's reward is {found.reward!r}, no finite number", who="author")
        if fault is not None:
            ending = Ending("fault", str(fault), fault.at)
        elif not session.nodes:
            ending = GAVE_UP
        elif ending.kind == "answer":
            turns[-1].reward += float(found.reward)
        trajectory = Trajectory(
            EnvRef(f"{CAPTURED}sessions"),
            task,
            0,
            turns,
            ending,
            group,
            f"{group}/{session.name}",
            Labels(mode="captured"),
            {"capture": session.counts()},
            session.recorded[0].tools if turns else (),
            sampling=self._sampling,
        )
        with self._news:
            self.trajectories.append(trajectory)
            self._groups[group].append(trajectory)
            if sum(map(len, self._groups.values())) > self.keep:
                self._forget_a_group()
            self._tell()
        if self._store is not None:
            self._store.append(trajectory)

    def _tell(self) -> None:
        for tell in self._watchers:
            tell()

    def _forget_a_group(self) -> None:
        """Drop the oldest group that no source has taken."""
        oldest = next(iter(self._groups))
        logger.warning("group %s is dropped: more than %s sessions wait for a source (keep)", oldest, self.keep)
        del self._groups[oldest]

    def taken(self, size: int) -> TrajectoryGroup | None:
        """A whole group of `size` sessions, the oldest one, which is then given away; None if there is none.

        Later sessions of its name make a new group.
        """
        with self._news:
            group = next((group for group, own in self._groups.items() if len(own) >= size), None)
            if group is None:
                return None
            own = self._groups.pop(group)
            if own[size:]:
                self._groups[group] = own[size:]
            return TrajectoryGroup(group, own[:size])

    @contextmanager
    def watched(self, tell: Callable[[], None]) -> Iterator[None]:
        """Have somebody told, from any thread, of each session that ends and of the recorder's own end."""
        with self._news:
            self._watchers.append(tell)
        try:
            yield
        finally:
            with self._news:
                self._watchers.remove(tell)

    def _in_loop(self, call: Callable[..., Any], about: Session | Episode) -> None:
        """Call something where the server runs, and wait for it. Raises: RolloutError if the recorder is closed."""
        if self.closed:
            raise RolloutError("the recorder is closed: use its sessions inside its `with` block")
        self._portal.call(call, about)


def capture(model: str | Path | LocalPolicy, **options: Any) -> Recorder:
    """Record what agents ask of a model: `with capture(MODEL) as recorder, recorder.session(TASK) as session: ...`.

    Args:
        model: a folder, or a policy that nothing else uses meanwhile.
        options: of `Recorder`.
    """
    return Recorder(model, **options)
