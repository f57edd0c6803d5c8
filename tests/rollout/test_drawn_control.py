"""A fault of the network or a server that an argument brings about, in a tool that nobody has used well."""

from __future__ import annotations

import asyncio
import errno
import socket
import urllib.request
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import httpx
import pytest

from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvFault
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.tool_schema import Tool, tool
from agentrl.trajectory import Task, Trajectory

FAULTS: tuple[Callable[[], Exception], ...] = (
    lambda: ConnectionRefusedError("no such host"),
    lambda: EnvFault("down", who="server"),
    lambda: TimeoutError("no answer"),
)


class Steps(Policy):
    """Takes these actions, one after the other."""

    def __init__(self, *actions: Any) -> None:
        self.actions = actions

    async def act(self, messages: list[Message], tools: Any, *, episode_id: str, sampling: Any = None) -> Action:
        turn = sum(message.role == "assistant" for message in messages)
        return Action.of(self.actions[min(turn, len(self.actions) - 1)])


class Desk(ToolEnv):
    """Its tools fail on what a test says."""

    tasks = Tasks.of(eval=[{}])
    limits = Limits(max_turns=4)
    fault = staticmethod(FAULTS[0])
    fails: Callable[[Any], bool] = staticmethod(lambda given: given in ("odd", 13))
    was_asked: ClassVar[list[Any]] = []

    def start(self, task: Task) -> str:
        return "Go."

    def __on(self, given: Any) -> str:
        type(self).was_asked.append(given)
        if self.fails(given):
            raise self.fault()
        return "well"

    @tool
    def fetch(self, word: str) -> str:
        """Fetch."""
        return self.__on(word)

    @tool
    async def count(self, number: int) -> str:
        """Count."""
        return self.__on(number)

    @tool(blocking=True)
    def choose(self, kind: Literal["odd", "even", "both"]) -> str:
        """Choose."""
        return self.__on(kind)

    def score(self, answer: str | None) -> float:
        return 0.0


def desk(**attributes: Any) -> type[Desk]:
    made = {name: staticmethod(value) if callable(value) else value for name, value in attributes.items()}
    return type("Desk", (Desk,), {**made, "was_asked": []})


async def played(env: Any, *actions: Any) -> Trajectory:
    async with Rollouts(env, Steps(*actions), backoff_s=0, max_attempts=2, max_fault_fraction=1.0) as rollouts:
        (group,) = await rollouts.run([GroupRequest(Desk.tasks.split("eval")[0], 1)])
    return group.trajectories[0]


ODD = {"fetch": call("fetch", word="odd"), "count": call("count", number=13), "choose": call("choose", kind="odd")}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_tool_that_takes_other_arguments_fails_on_what_the_model_wrote(
    fault: Callable[[], Exception], name: str
) -> None:
    episode = await played(desk(fault=fault), ODD[name], "bye")
    assert episode.ending.kind == "answer", episode.ending
    assert episode.turns[0].next_observation[0].content.startswith("Error: ")


@pytest.mark.parametrize("name", ODD)
async def test_a_tool_that_takes_nothing_discards(name: str) -> None:
    episode = await played(desk(fails=lambda given: True), ODD[name], "bye")
    assert (episode.ending.kind, episode.ending.who) == ("fault", "network")


@pytest.mark.parametrize(("number", "has_room"), [(errno.ENOSPC, True), (errno.ENOSPC, False), (errno.EDQUOT, True)])
async def test_a_disk_that_has_room_now_was_asked_for_too_much(
    number: int, has_room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other arguments may need less of a full one, so that they prove nothing."""
    monkeypatch.setattr("agentrl.env.blame._has_room", lambda folder: has_room)
    episode = await played(desk(fault=lambda: OSError(number, "no space")), ODD["fetch"], "bye")
    if number == errno.ENOSPC and has_room:
        assert episode.ending.kind == "answer"
        assert episode.turns[0].next_observation[0].content.startswith("Error: ")
    else:
        assert (episode.ending.kind, episode.ending.who) == ("fault", "host")


NOWHERE = "http://127.0.0.1:1/"


def by_urllib(url: str) -> str:
    return urllib.request.urlopen(url).read()


def by_httpx(url: str) -> str:
    return httpx.get(url).text


async def by_asyncio(url: str) -> str:
    await asyncio.open_connection(url.split("/")[2].split(":")[0], 1)
    return ""


@pytest.mark.parametrize("fetch", [by_urllib, by_httpx, by_asyncio])
async def test_an_address_that_the_model_named_and_nobody_has_reached_is_its_own(fetch: Callable[..., Any]) -> None:
    def visit(url: str) -> Any:
        """Visit."""
        return fetch(url)

    async def visit_slowly(url: str) -> Any:
        """Visit."""
        return await fetch(url)

    made = Tool.of(visit_slowly if fetch is by_asyncio else visit)
    episode = await played(desk(extra_tools=(made,)), call(made.name, url=NOWHERE), "bye")
    assert episode.ending.kind == "answer", episode.ending
    assert episode.turns[0].next_observation[0].content.startswith("Error: ")
    assert not episode.labels.asked_anew


async def test_a_port_that_the_model_named_is_its_own_and_what_the_author_named_is_not() -> None:
    def knock(port: int) -> str:
        """Knock."""
        socket.create_connection(("127.0.0.1", port))
        return ""

    def look(item: str) -> str:
        """Look."""
        socket.create_connection(("127.0.0.1", 1))
        return item

    tools = (Tool.of(knock), Tool.of(look))
    episode = await played(desk(extra_tools=tools), call("knock", port=1), "bye")
    assert episode.ending.kind == "answer"
    episode = await played(desk(extra_tools=tools), call("look", item="a"), "bye")
    assert (episode.ending.kind, episode.ending.who) == ("fault", "network")


async def test_what_worked_earlier_in_the_same_episode_is_a_control() -> None:
    env = desk(fails=lambda given: given != "good")  # as a name of a host is, of which few exist
    episode = await played(env, call("fetch", word="good"), call("fetch", word="odd"), "bye")
    assert episode.ending.kind == "answer"
    assert [turn.next_observation[0].content[:5] for turn in episode.turns[:2]] == ["well", "Error"]


async def test_where_no_argument_that_works_is_found_the_episode_is_discarded() -> None:
    episode = await played(desk(fails=lambda given: given != "good"), call("fetch", word="odd"), "bye")
    assert (episode.ending.kind, episode.ending.who) == ("fault", "network")


async def test_tools_that_are_no_methods_are_not_called_with_drawn_arguments() -> None:
    asked = []

    def send(word: str) -> str:
        """Send."""
        asked.append(word)
        raise ConnectionRefusedError("no")

    episode = await played(desk(extra_tools=(Tool.of(send),)), call("send", word="odd"), "bye")
    assert episode.ending.kind == "fault"
    assert set(asked) == {"odd"}
