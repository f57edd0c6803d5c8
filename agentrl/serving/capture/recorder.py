"""Sessions of agents that the caller's own program runs: `agentrl.capture`. Owns the thread in which the model answers.

The sessions of one group are a `TrajectoryGroup`; `CapturedGroups` gives these to a stage or to a training loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agentrl.policy.base import SamplingParams
from agentrl.policy.local import LocalPolicy
from agentrl.rollout.new_folder import check_new
from agentrl.rollout.sources.base import Source, State
from agentrl.rollout.store import TrajectoryStore
from agentrl.serving.capture.episode import Episode
from agentrl.serving.capture.server import CaptureServer
from agentrl.serving.capture.session import Session
from agentrl.serving.capture.tasks import AgentTasks
from agentrl.serving.chat_model import ChatModel
from agentrl.trajectory import CAPTURED, Ending, EnvRef, Labels, Task, Trajectory, TrajectoryGroup

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
        self.base_url, self.anthropic_url, self.key = (
            f"{url}/s/{session.name}/v1",
            f"{url}/s/{session.name}",
            session.key,
        )
        self.reward = 0.0


class Recorder:
    """Records what agents ask of a model; a context manager.

    Args:
        model: a folder, or a policy that nothing else uses meanwhile.
        out: folder whose `trajectories.jsonl` gets the sessions; None keeps them in memory alone.
        sampling: of every turn.
        max_turns: of one session.
        options: of `LocalPolicy.from_folder`.
    Attributes:
        trajectories: of the sessions that have ended.
    """

    def __init__(
        self,
        model: str | Path | LocalPolicy,
        *,
        out: str | Path | None = None,
        sampling: SamplingParams | None = None,
        max_turns: int = 64,
        **options: Any,
    ) -> None:
        self.policy = model if isinstance(model, LocalPolicy) else LocalPolicy.from_folder(model, **options)
        self._sampling, self._max_turns = sampling or self.policy.sampling, max_turns
        if out is not None:
            check_new(out)
            Path(out).mkdir(parents=True, exist_ok=True)
        self._store = None if out is None else TrajectoryStore(Path(out) / "trajectories.jsonl")
        self.trajectories: list[Trajectory] = []
        self._groups: dict[str, list[Trajectory]] = defaultdict(list)
        self._number, self._news = 0, threading.Condition()
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
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
            self._in_loop(self._end, session)
            self._record(session, played, found, ending, group or played.id)

    def _end(self, session: Session) -> None:
        self._server.proxy.remove(session)
        session.end("the agent has ended")

    def _record(self, session: Session, task: Task, found: CapturedSession, ending: Ending, group: str) -> None:
        turns = session.turns()
        if session.fault is not None or not turns:
            detail = str(session.fault or "the model was asked for nothing")
            ending = Ending("fault", detail, session.fault.at if session.fault else "author")
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
            session.nodes[0].tools if turns else (),
            sampling=self._sampling,
        )
        with self._news:
            self.trajectories.append(trajectory)
            self._groups[group].append(trajectory)
            self._news.notify_all()
        if self._store is not None:
            self._store.append(trajectory)

    def wait_for(self, group_size: int, n: int, given: set[str]) -> list[TrajectoryGroup]:
        """Block until there are `n` whole groups that were not given before, and note that they are given."""
        with self._news:
            while True:
                whole = [g for g, own in self._groups.items() if len(own) >= group_size and g not in given][:n]
                if len(whole) == n:
                    given.update(whole)
                    return [TrajectoryGroup(g, self._groups[g][:group_size]) for g in whole]
                self._news.wait()

    def _in_loop(self, call: Any, *arguments: Any) -> None:
        """Call a function on the thread of the event loop, and wait for it."""
        done = threading.Event()

        def called() -> None:
            try:
                call(*arguments)
            finally:
                done.set()

        self._loop.call_soon_threadsafe(called)
        done.wait()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._model = ChatModel(self.policy, _NAME)
        async with CaptureServer() as self._server:
            self._ready.set()
            await self._stop.wait()


class CapturedGroups(Source):
    """Groups of sessions, in the order in which they became whole.

    Where they come from is the caller's program, so a position is only a count: a resumed run gets new sessions.

    Args: recorder: records the sessions; group_size: of a whole group.
    """

    def __init__(self, recorder: Recorder, group_size: int) -> None:
        self._recorder, self._size = recorder, group_size
        self._given: set[str] = set()
        self._taken = 0

    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        self._taken += n
        return asyncio.to_thread(self._recorder.wait_for, self._size, n, self._given)

    def state_dict(self) -> State:
        return {"taken": self._taken}

    def load_state_dict(self, state: State) -> None:
        self._taken = state["taken"]


def capture(model: str | Path | LocalPolicy, **options: Any) -> Recorder:
    """Record what agents ask of a model: `with capture(MODEL) as recorder, recorder.session(TASK) as session: ...`.

    Args:
        model: a folder, or a policy that nothing else uses meanwhile.
        options: of `Recorder`.
    """
    return Recorder(model, **options)
