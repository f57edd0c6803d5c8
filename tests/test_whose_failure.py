"""Whose failure is it? Each cause is brought about in a whole run, and lands in the column of docs/faults.md."""

from __future__ import annotations

import asyncio
import errno
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvFault
from agentrl.messages import Action, ToolCall
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.chat import ChatPolicy
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.sandbox import SandboxFault
from agentrl.sandbox.pool import Pool
from agentrl.tool_schema import tool
from agentrl.tools.http_api import HttpApi, HttpSettings, Retry, bearer
from agentrl.tools.openapi import api_tools
from agentrl.tools.sql import SqlDatabase, sql_tool
from agentrl.trajectory import Task, Trajectory
from tests.policy.test_chat_verdicts import ERRORS, TURNS, response
from tests.sandboxed.attacks import ATTACKS

READ, FAILED, CUT_OFF, COUNTS = "the model reads an error", "counts as failed", "cut off", "counts"
NESTED: Any = 1
for _ in range(5000):
    NESTED = [NESTED]


@dataclass(frozen=True)
class Cause:
    """Something that goes wrong in the second of two episodes; the first one goes well.

    Attributes:
        lands: the column: what becomes of the episode.
        play: plays both episodes and returns the trajectory of the second.
    """

    lands: str
    play: Callable[[], Any]


class Steps(Policy):
    """Takes the first list of actions in the first task, the second in the second."""

    sampling = SamplingParams()

    def __init__(self, good: list[Any], bad: list[Any]) -> None:
        self.lists = good, bad

    async def act(self, messages, tools, *, episode_id, sampling=None):
        turn = sum(message.role == "assistant" for message in messages)
        actions = self.lists[episode_id.startswith("second")]
        return Action.of(actions[min(turn, len(actions) - 1)])


async def second_of(env: Any, policy: Policy) -> Trajectory:
    async with Rollouts(
        env, policy, backoff_s=0, max_attempts=2, max_fault_fraction=1.0, max_concurrency=1
    ) as rollouts:
        instance = await rollouts.envs.lend()
        tasks = instance.tasks.split(instance.tasks.splits[-1])[:2]
        rollouts.envs.give_back(instance)
        names = ("first", "second")
        groups = await rollouts.run(GroupRequest(t, 1, group_id=n) for t, n in zip(tasks, names, strict=True))
    assert groups[0].trajectories[0].ending.kind != "fault", groups[0].trajectories[0].error
    return groups[1].trajectories[0]


def text(env: Any, bad: Any, good: Any = "nothing", lands: str = READ) -> Cause:
    """A model's action in an environment that works."""
    return Cause(lands, lambda: second_of(env, Steps([good, "bye"], [bad, "bye"])))


# Tools that work, in one environment.


def echo(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"seen": len(request.content)})


def parameter(name: str, place: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": {}}


API = {
    "openapi": "3.1.0",
    "servers": [{"url": "https://api.example"}],
    "paths": {
        "/x/{path}": {
            "post": {
                "operationId": "send",
                "parameters": [parameter("path", "path"), parameter("query", "query"), parameter("X-Head", "header")],
                "requestBody": {
                    "content": {"application/json": {"schema": {"type": "object", "properties": {"body": {}}}}}
                },
            }
        }
    },
}


class Kit(ToolEnv):
    """Tools of every bundled kind."""

    tasks = Tasks.of(eval=[{"n": n} for n in range(2)])
    limits = Limits(max_turns=3)
    extra_tools = (
        *api_tools(API, transport=httpx.MockTransport(echo)),
        sql_tool(SqlDatabase(setup="CREATE TABLE t (a TEXT)")),
    )

    def start(self, task: Task) -> str:
        return "Go."

    @tool
    def halve(self, number: float, items: list[str] | None = None) -> float:
        """Halve a number."""
        return number / 2

    def score(self, answer: str | None) -> float:
        return 0.0


def sent(**arguments: Any) -> Cause:
    return text(Kit, call("send", **{"path": "a", **arguments}))


TEXTS = {
    "half a surrogate in an argument": text("agentrl/Shop-v0", call("search", kind="\ud800")),
    "an argument of 2 MB": text("agentrl/Shop-v0", call("search", kind="a" * (2 << 20))),
    "a number of 200 bits": text("agentrl/Shop-v0", call("buy", seller="a", quantity=2**200)),
    "an argument nested 5000 deep": text(Kit, call("halve", number=1, items=NESTED)),
    "NaN for a number": text(Kit, call("halve", number=math.nan)),
    "no such tool": text(Kit, call("\ud800" * 300)),
    "arguments that are no object": text(
        Kit, {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "halve", "arguments": "[1]"}}]}
    ),
    "arguments that are no JSON": text(Kit, Action(tool_calls=(ToolCall("halve", {}, "a", "no JSON"),))),
    "a thousand calls in a turn": text(
        Kit, Action(tool_calls=tuple(ToolCall("halve", {"number": 1}, f"c{n}") for n in range(1000)))
    ),
    "a tower of powers": text("agentrl/Calculator-v0", call("calculator", expression="9**9**9**9")),
    "deep parentheses": text("agentrl/Calculator-v0", call("calculator", expression="(" * 9999)),
    "a surrogate in a search": text("agentrl/Search-v0", call("search", query="\udfff a")),
    "half a surrogate in an answer": text("agentrl/Shop-v0", "\ud800", lands=COUNTS),
    "a turn without an end": text(Kit, Action("la la", finish_reason="length"), lands=CUT_OFF),
    "turns without an end": Cause(CUT_OFF, lambda: second_of(Kit, Steps(["bye"], [call("halve", number=1)]))),
}
REQUESTS = {
    "half a surrogate in a path": sent(path="\ud800"),
    "a path of 70 KB": sent(path="a" * 70_000),
    "a path to another place": sent(path=".."),
    "half a surrogate in a query": sent(query="\ud800"),
    "a query of 70 KB": sent(query="a" * 70_000),
    "a line break in a header": sent(**{"X-Head": "a\r\nb: c"}),
    "blanks around a header": sent(**{"X-Head": " a "}),
    "a body nested 5000 deep": sent(body=NESTED),
    "infinity in a body": sent(body=math.inf),
    "a statement that never ends": text(
        Kit, call("sql", query="WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n")
    ),
    "a blob of 1 GB": text(Kit, call("sql", query="SELECT hex(zeroblob(1000000000))")),
    "the clock in SQL": text(Kit, call("sql", query="SELECT date('n'||'ow')")),
}


# Author code.


def raising(make: Callable[[], BaseException]) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise make()

    return fail


class Fickle(ToolEnv):
    """Its tool, its user and its score do what a test says, on the word "odd"."""

    tasks = Tasks.of(eval=[{"n": n} for n in range(2)])
    limits = Limits(max_turns=4)
    tool_timeout_s = hook_timeout_s = 0.05
    odd_tool: Callable[..., Any] = staticmethod(lambda: "even")
    odd_score: Callable[..., Any] = staticmethod(lambda: 0.0)
    odd_user: Callable[..., Any] = staticmethod(lambda: None)
    odd_start: Callable[..., Any] = staticmethod(lambda: "Go.")

    async def start(self, task: Task) -> Any:
        made = self.odd_start() if task.data["n"] else "Go."
        return await made if asyncio.iscoroutine(made) else made

    @tool
    async def use(self, word: str) -> Any:
        """Use a word."""
        made = self.odd_tool() if word == "odd" else "even"
        return await made if asyncio.iscoroutine(made) else made

    @tool
    def use_in_place(self, word: str) -> Any:
        """Use a word."""
        return self.odd_tool() if word == "odd" else "even"

    @tool(blocking=True)
    def use_apart(self, word: str) -> Any:
        """Use a word."""
        return self.odd_tool() if word == "odd" else "even"

    def respond(self, text: str) -> Any:
        return self.odd_user() if text == "odd?" else None

    async def score(self, answer: str | None) -> Any:
        made = self.odd_score() if answer == "odd" else 0.0
        return await made if asyncio.iscoroutine(made) else made


def fickle(lands: str, bad: list[Any] | None = None, **hooks: Callable[..., Any]) -> Cause:
    env = type("Fickle", (Fickle,), {name: staticmethod(hook) for name, hook in hooks.items()})
    return Cause(
        lands, lambda: second_of(env, Steps([call("use", word="a"), "bye"], bad or [call("use", word="odd"), "bye"]))
    )


async def forever() -> None:
    await asyncio.Event().wait()


def endless() -> None:
    while True:
        pass


def hangs(name: str, hang: Callable[[], Any]) -> Cause:
    env = type("Fickle", (Fickle,), {"odd_tool": staticmethod(hang)})
    return Cause(FAILED, lambda: second_of(env, Steps([call(name, word="a"), "bye"], [call(name, word="odd"), "bye"])))


def lost(kind: int) -> OSError:
    return OSError(kind, "no")


AUTHOR, NETWORK, SERVER, SANDBOX, HOST = (
    f"discarded: {who}" for who in ("author", "network", "server", "sandbox", "host")
)
CODE = {
    "a tool raises on some arguments": fickle(FAILED, odd_tool=raising(lambda: KeyError("odd"))),
    "a tool calls sys.exit": fickle(FAILED, odd_tool=raising(lambda: SystemExit(0))),
    "a tool raises KeyboardInterrupt": fickle(FAILED, odd_tool=raising(KeyboardInterrupt)),
    "a tool raises GeneratorExit": fickle(FAILED, odd_tool=raising(GeneratorExit)),
    "a tool does not return": fickle(FAILED, odd_tool=forever),
    "a plain tool does not return": hangs("use_in_place", endless),
    "a plain tool runs a regular expression without end": hangs(
        "use_in_place", lambda: re.match(r"(a+)+$", "a" * 60 + "!")
    ),
    "a blocking tool does not return": hangs("use_apart", endless),
    "a tool recurses without an end": fickle(FAILED, odd_tool=raising(RecursionError)),
    "a tool returns what has no JSON form": fickle(FAILED, odd_tool=object),
    "a tool awaits something cancelled": fickle(FAILED, odd_tool=raising(asyncio.CancelledError)),
    "score raises on some answers": fickle(FAILED, ["odd"], odd_score=raising(lambda: ValueError("odd"))),
    "score calls sys.exit": fickle(FAILED, ["odd"], odd_score=raising(lambda: SystemExit(0))),
    "score raises KeyboardInterrupt": fickle(FAILED, ["odd"], odd_score=raising(KeyboardInterrupt)),
    "score raises GeneratorExit": fickle(FAILED, ["odd"], odd_score=raising(GeneratorExit)),
    "score does not return": fickle(FAILED, ["odd"], odd_score=forever),
    "score is NaN": fickle(FAILED, ["odd"], odd_score=lambda: math.nan),
    "score is no number": fickle(FAILED, ["odd"], odd_score=lambda: "much"),
    "the user raises on some words": fickle(FAILED, ["odd?", "bye"], odd_user=raising(lambda: KeyError("odd"))),
    "start raises": fickle(AUTHOR, odd_start=raising(lambda: KeyError("odd"))),
    "start does not return": fickle(AUTHOR, odd_start=forever),
    "start calls sys.exit": fickle(AUTHOR, odd_start=raising(lambda: SystemExit(0))),
    "start raises KeyboardInterrupt": fickle(AUTHOR, odd_start=raising(KeyboardInterrupt)),
    "start raises GeneratorExit": fickle(AUTHOR, odd_start=raising(GeneratorExit)),
    "a tool returns numpy's numbers": fickle(COUNTS, odd_tool=lambda: [np.float32(1), np.int64(2), np.bool_(True)]),
    "a tool returns bytes": fickle(COUNTS, odd_tool=lambda: b"\xff"),
    "a tool returns NaN": fickle(COUNTS, odd_tool=lambda: {"a": math.nan}),
    "score is numpy's": fickle(COUNTS, ["odd"], odd_score=lambda: np.float32(0)),
}
MACHINE = {
    "memory runs out on some arguments": fickle(READ, odd_tool=raising(MemoryError)),
    "the disk is full for some arguments": fickle(READ, odd_tool=raising(lambda: lost(errno.ENOSPC))),
    "too few descriptors at the start": fickle(HOST, odd_start=raising(lambda: lost(errno.EMFILE))),
    "no connection for some arguments": fickle(READ, odd_tool=raising(lambda: ConnectionRefusedError("odd"))),
    "no connection at the start": fickle(NETWORK, odd_start=raising(lambda: ConnectionRefusedError("odd"))),
    "the author says that a server is down, on some arguments": fickle(READ, odd_tool=raising(lambda: EnvFault("odd"))),
    "the author says that a server is down, at the start": fickle(SERVER, odd_start=raising(lambda: EnvFault("odd"))),
}


# The server of an API.

Answer = Callable[[], httpx.Response]


def api(lands: str, answer: Answer, *, method: str = "GET", always: bool = False, auth: Any = None) -> Cause:
    """A server that answers so on the word "odd", or to everything once that word has come."""

    async def play() -> Trajectory:
        down = False

        def handle(request: httpx.Request) -> httpx.Response:
            nonlocal down
            odd = b"odd" in request.content or "odd" in str(request.url)
            down = down or (odd and always)
            return answer() if odd or down else httpx.Response(200, text="even")

        settings = HttpSettings(retry=Retry(attempts=2, base_s=0.0))
        client = HttpApi("https://api.example", transport=httpx.MockTransport(handle), settings=settings, auth=auth)

        async def ask(word: str) -> str:
            arguments = {"params": [("word", word)]} if method == "GET" else {"json": {"word": word}}
            return (await client.request(method, "x", **arguments)).text

        class Asks(Fickle):
            tool_timeout_s = 5.0

            @tool
            async def use(self, word: str) -> str:
                """Use a word."""
                return await ask(word)

        return await second_of(Asks, Steps([call("use", word="a"), "bye"], [call("use", word="odd"), "bye"]))

    return Cause(lands, play)


def status(number: int) -> Answer:
    return lambda: httpx.Response(number, text="no")


SERVERS = {
    "an API answers 404": api(READ, status(404)),
    "an API answers 500 to some requests": api(READ, status(500)),
    "an API answers 500 to some POST": api(READ, status(500), method="POST"),
    "an API breaks the connection on some requests": api(READ, raising(lambda: httpx.ReadError("reset"))),
    "an API breaks the connection on some POST": api(READ, raising(lambda: httpx.ReadError("reset")), method="POST"),
    "an API answers 503 to everything": api(SERVER, status(503), always=True),
    "an API answers 500 to every POST": api(SERVER, status(500), method="POST", always=True),
    "an API cannot be reached": api(NETWORK, raising(lambda: httpx.ConnectError("refused")), always=True),
    "an API refuses its credentials": api(AUTHOR, status(401), always=True, auth=bearer("API_TOKEN")),
}


# The policy's server.


class Talks(Fickle):
    """The tasks are called 0 and 1."""

    async def start(self, task: Task) -> str:
        return f"task {task.data['n']}"


def poisoned(
    reply: Callable[[], Any], speak: Callable[[bool], httpx.Response], told: bytes, *, always: bool
) -> httpx.AsyncClient:
    """A client of a server that fails by `reply` once the model has spoken in the second episode, if `always` for good.

    Args:
        speak: the model's turn otherwise; it is given whether to call `use` with the word `poison`.
        told: what the conversation holds once the model has read of the failure.
    """
    down = False

    def handle(request: httpx.Request) -> httpx.Response:
        nonlocal down
        has_read = told in request.content
        fails = b"poison" in request.content and not has_read
        down = down or (fails and always)
        return reply() if fails or down else speak(b"task 1" in request.content and not has_read)

    return httpx.AsyncClient(transport=httpx.MockTransport(handle))


def chat(lands: str, reply: Callable[[], Any], *, always: bool = False) -> Cause:
    """A chat server that answers so once the model has spoken in the second episode."""

    def speak(calls: bool) -> httpx.Response:
        body = dict(next(body for name, body, _ in TURNS if name == "openai: stop"))
        if calls:
            function = {"name": "use", "arguments": '{"word": "poison"}'}
            message = {"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]}
            body["choices"] = [{"finish_reason": "tool_calls", "message": message}]
        return httpx.Response(200, json=body)

    async def play() -> Trajectory:
        client = poisoned(reply, speak, b"could not be read", always=always)
        policy = ChatPolicy("bot", base_url="http://server/v1", client=client, max_retries=1, max_backoff_s=0.001)
        return await second_of(Talks, policy)

    return Cause(lands, play)


def errors(lands: str, name: str, *, always: bool = False) -> Cause:
    number, body = next(row[1:3] for row in ERRORS if row[0] == name)
    return chat(lands, lambda: response(number, body), always=always)


def turns(lands: str, name: str, *, always: bool = False) -> Cause:
    body = next(row[1] for row in TURNS if row[0] == name)
    return chat(lands, lambda: response(200, body), always=always)


CHAT = {
    "groq says tool_use_failed": errors(READ, "groq: tool_use_failed"),
    "vllm cannot parse a call": errors(READ, "vllm: could not parse"),
    "sglang cannot parse a call": errors(READ, "sglang: message"),
    "llama.cpp cannot parse a call": errors(READ, "llama.cpp: input"),
    "ollama cannot parse a call": errors(READ, "ollama"),
    "gemini says MALFORMED_FUNCTION_CALL": turns(READ, "gemini: MALFORMED_FUNCTION_CALL"),
    "azure filters an answer": errors(FAILED, "azure: answer"),
    "a server answers content_filter": turns(FAILED, "openai: content_filter"),
    "a server refuses what the model said": errors(FAILED, "openai: name"),
    "a prompt is too long, by its code": errors(CUT_OFF, "openai: code"),
    "a prompt is too long, by its numbers": errors(CUT_OFF, "vllm from 0.16: sizes"),
    "a server fails on what the model said": errors(FAILED, "any: 500"),
    "a server is down": errors(SERVER, "any: 503", always=True),
    "a server limits the rate": errors(SERVER, "any: 429", always=True),
    "a proxy is full": errors(SERVER, "nginx: 503", always=True),
    "finish_reason is error": turns(SERVER, "openrouter: error", always=True),
    "finish_reason is network_error": turns(SERVER, "zai: network_error", always=True),
    "finish_reason is unknown": turns(SERVER, "any: something new", always=True),
    "an error stands in the choice": turns(SERVER, "openrouter: an error in the choice", always=True),
    "a turn has no tokens": turns(SERVER, "any: a turn of no tokens", always=True),
    "a policy's server cannot be reached": chat(NETWORK, raising(lambda: httpx.ConnectError("refused")), always=True),
}


# Code in a sandbox.


def attack(name: str, backend: str) -> Cause:
    async def play() -> Trajectory:
        attack = ATTACKS[name]
        policy = Steps(["bye"], [*attack.actions, Action(text=attack.answer)])
        return await second_of(lambda: attack.make(backend=backend), policy)

    return Cause(COUNTS, play)


async def without_sandbox() -> Trajectory:
    """The second episode finds that no sandbox can be started."""
    patch = pytest.MonkeyPatch()

    async def fail(self: Pool) -> Any:
        raise SandboxFault("no sandbox can be started")

    attack = ATTACKS["NUL in code"]
    with patch.context() as patched:
        patched.setattr(Pool, "lend", fail)
        return await second_of(lambda: attack.make(backend="bubblewrap"), Steps(["bye"], list(attack.actions)))


SANDBOXES = {
    f"{name}, on {backend}": attack(name, backend)
    for name in (
        "deep folders",
        "long names that are no UTF-8",
        "socket buffers",
        "descriptors in flight",
        "a killed session",
        "forged answers",
        "a stopped session",
        "processes of a session",
        "a full disk",
        "no permissions",
    )
    for backend in ("bubblewrap", "docker")
}
LOST = {"no sandbox can be started": Cause(SANDBOX, without_sandbox)}
CAUSES: Mapping[str, Cause] = {**TEXTS, **REQUESTS, **CODE, **MACHINE, **SERVERS, **CHAT, **SANDBOXES, **LOST}


def lands(trajectory: Trajectory) -> str:
    """The column of an episode, from its record alone."""
    ending = trajectory.ending
    if ending.kind == "fault":
        return f"discarded: {ending.who}"
    if ending.kind == "error":
        return FAILED
    if ending.kind == "limit":
        return CUT_OFF
    answers = [m.content for turn in trajectory.turns for m in turn.next_observation if m.role == "tool"]
    return READ if any(answer.startswith("Error: ") for answer in answers) else COUNTS


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.docker if n.endswith("docker") else ()) for n in CAUSES]
)
async def test_a_cause_lands_in_its_column(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.env.watchdog._watchdog.look_s", 0.02)
    monkeypatch.setenv("API_TOKEN", "a-token-of-these-tests")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-key-of-these-tests")
    cause = CAUSES[name]
    trajectory = await cause.play()
    found = lands(trajectory)
    if name in SANDBOXES and found == READ:  # a program's failure is told in many ways
        found = COUNTS
    assert found == cause.lands, (trajectory.ending, [t.next_observation for t in trajectory.turns])
    assert (trajectory.reward, trajectory.success) == (0.0, False), "none of these episodes has earned anything"


def test_the_page_lists_every_cause_in_its_column() -> None:
    page = (Path(__file__).parent.parent / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", page.partition("## Causes")[2], re.M))
    expected = {name.removesuffix(", on bubblewrap"): c.lands for name, c in CAUSES.items() if "docker" not in name}
    assert {name: column for name, column in rows.items() if name in expected} == expected
    assert len(CAUSES) >= 60
