"""Stores to look at, and a client of the page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentrl.messages import Action, Message, ToolCall
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, Turn
from agentrl.viewer.app import make_app
from agentrl.viewer.forks.playing import ForkOptions, Forks
from agentrl.viewer.index import Index
from agentrl.viewer.watch import Watcher

TOKEN, PORT = "right-token", 8123


def episode(number: int = 0, *, text: str = "", reward: float = 1.0, **fields: Any) -> Trajectory:
    """An episode of one call and one answer."""
    looked = Action(tool_calls=(ToolCall("look", {"at": number}),))
    turns = [
        Turn((Message("user", f"Task {number}?"),), looked, next_observation=(Message("tool", "red", name="look"),)),
        Turn((Message("tool", "red", name="look"),), Action(text or "red"), reward),
    ]
    labels = fields.pop("labels", Labels(stage="rl", step=number // 4 + 1))
    defaults = {"ending": Ending("answer"), "group_id": f"g{number // 4}", "episode_id": f"e{number}"}
    return Trajectory(
        EnvRef("test/Lamp-v0"), Task(f"t-{number}"), number, turns, labels=labels, **{**defaults, **fields}
    )


def write(path: Path, *episodes: Trajectory) -> Path:
    """Append episodes to a store."""
    with TrajectoryStore(path) as store:
        for one in episodes:
            store.append(one)
    return path


def look(watcher: Watcher) -> Watcher:
    """Read all that is there, without the thread."""
    watcher.find()
    while watcher.look():
        pass
    return watcher


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watcher]]:
    """Makes a watcher, without its thread, over places; it has looked once."""
    with ExitStack() as stack:
        numbers = iter(range(100))

        def made(*places: Path) -> Watcher:
            folder = tmp_path / f".index-{next(numbers)}"
            folder.mkdir()
            index = stack.enter_context(closing(Index(folder / "index.sqlite")))
            return look(Watcher(index, places))

        yield made


@asynccontextmanager
async def client_of(watcher: Watcher, options: ForkOptions | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the token."""
    with Forks(options or ForkOptions()) as forks:
        app = make_app(watcher, forks, token=TOKEN, port=PORT)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url=f"http://127.0.0.1:{PORT}",
            headers={"authorization": f"Bearer {TOKEN}"},
        ) as client:
            yield client


async def got(client: httpx.AsyncClient, path: str, **params: Any) -> Any:
    """The JSON of a page that exists."""
    answer = await client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def only_source(watcher: Watcher) -> str:
    """The id of the one source."""
    (found,) = watcher.sources
    return found
