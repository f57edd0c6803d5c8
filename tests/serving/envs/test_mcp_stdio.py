"""An episode over standard input and output: where its reward goes. The protocol itself: `test_mcp_door`."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")

import anyio

from agentrl.errors import ConfigError, TaskError
from agentrl.serving.envs.seats import Start
from agentrl.serving.mcp import stdio as mcp_stdio
from agentrl.trajectory import EnvRef
from tests.serving.envs.conftest import ODD


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """What happens between the beginning of the episode and its client's hanging up."""

    def set_to(happens: Callable[[], Any]) -> None:
        @asynccontextmanager
        async def stdio() -> AsyncIterator[Any]:
            happens()
            to_server, read = anyio.create_memory_object_stream[Any](1)
            write, from_server = anyio.create_memory_object_stream[Any](1)
            to_server.close()
            yield read, write
            from_server.close()

        monkeypatch.setattr(mcp_stdio, "stdio_server", stdio)

    return set_to


def test_two_episodes_with_one_file_for_the_reward(during: Any, tmp_path: Path) -> None:
    out = tmp_path / "reward.json"
    refused: list[str] = []

    def begin() -> None:
        with pytest.raises(ConfigError, match="is there already: name a new file") as error:
            mcp_stdio.serve_stdio(EnvRef(ODD), Start(1), out)
        refused.append(str(error.value))

    def another_begins() -> None:
        during(lambda: None)
        thread = threading.Thread(target=begin)  # as another process does: it has an event loop of its own
        thread.start()
        thread.join()

    during(another_begins)
    mcp_stdio.serve_stdio(EnvRef(ODD), Start(0), out)
    assert len(refused) == 1
    assert json.loads(out.read_text())["turns"] == 0


def test_a_file_that_another_put_there_is_not_overwritten(during: Any, tmp_path: Path) -> None:
    out, other = tmp_path / "reward.json", tmp_path / "other"
    other.write_text("precious")
    during(lambda: other.replace(out))
    with pytest.raises(ConfigError, match="was removed or replaced during the episode"):
        mcp_stdio.serve_stdio(EnvRef(ODD), Start(0), out)
    assert out.read_text() == "precious"


def test_an_episode_that_does_not_begin_leaves_no_file(tmp_path: Path) -> None:
    out = tmp_path / "reward.json"
    with pytest.raises(TaskError):
        mcp_stdio.serve_stdio(EnvRef(ODD), Start(0, "nothing"), out)
    assert not out.exists()


def test_a_file_that_cannot_be_made_is_refused_before_the_episode(during: Any, tmp_path: Path) -> None:
    begun: list[bool] = []
    during(lambda: begun.append(True))
    with pytest.raises(ConfigError, match=r"cannot be made: .* name a file in a folder that you may write to"):
        mcp_stdio.serve_stdio(EnvRef(ODD), Start(0), tmp_path / "no" / "reward.json")
    assert not begun
