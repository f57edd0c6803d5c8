"""The groups of sessions that a recorder makes, as a source for a stage or a loop. Owns who gets which group."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress

from agentrl.errors import RolloutError
from agentrl.rollout.sources.base import Source, State
from agentrl.serving.capture.recorder import Recorder
from agentrl.trajectory import TrajectoryGroup


class CapturedGroups(Source):
    """Groups of sessions, in the order in which they became whole.

    Where they come from is the caller's program, so a position is only a count: a resumed run gets new sessions. Groups
    of a `take` that was cancelled go to the next one, and those after a position of this process are given again.

    Args: recorder: records the sessions; group_size: of a whole group.
    """

    def __init__(self, recorder: Recorder, group_size: int) -> None:
        self._recorder, self._size = recorder, group_size
        self._groups: dict[int, TrajectoryGroup] = {}  # by their places
        self._next = self._filled = 0
        self._given_back: list[int] = []

    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        """Raises: RolloutError if the recorder is closed before there are `n` groups."""
        again, self._given_back = self._given_back[:n], self._given_back[n:]
        first, self._next = self._next, self._next + n - len(again)
        return self._at([*again, *range(first, self._next)])

    async def _at(self, places: Sequence[int]) -> list[TrajectoryGroup]:
        """The groups of some places, when they are whole."""
        news, loop = asyncio.Event(), asyncio.get_running_loop()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(news.set)

        try:
            with self._recorder.watched(tell):
                while not self._are_filled(places):
                    await news.wait()
                    news.clear()
        except BaseException:
            self._given_back = sorted((*self._given_back, *places))
            raise
        found = [self._groups[place] for place in places]
        oldest = min(places) - self._recorder.keep // self._size
        self._groups = {place: group for place, group in self._groups.items() if place >= oldest}
        return found

    def _are_filled(self, places: Sequence[int]) -> bool:
        """Put whole groups at their places. Returns: whether there is one at each of `places`. Raises: RolloutError."""
        closed = self._recorder.closed
        while self._filled <= max(places) and (group := self._recorder.taken(self._size)) is not None:
            self._groups[self._filled] = group
            self._filled += 1
        whole = sum(place in self._groups for place in places)
        if closed and whole < len(places):
            raise RolloutError(
                f"the recorder is closed: {whole} of {len(places)} groups of {self._size} sessions are whole"
            )
        return whole == len(places)

    def state_dict(self) -> State:
        return {"taken": min([self._next, *self._given_back])}

    def load_state_dict(self, state: State) -> None:
        oldest = min(self._groups, default=self._filled)
        self._next, self._given_back = max(state["taken"], oldest), []
        self._filled = max(self._filled, self._next)
