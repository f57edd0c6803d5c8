"""tau3 with a user, over a stand-in for its worlds, and the worker process itself."""

from __future__ import annotations

import json
import sys
from unittest.mock import Mock

import httpx
import pytest

from agentrl.adapters.tau3 import talk, worker, world
from agentrl.adapters.tau3.talk import Tau3, _Customer
from agentrl.adapters.tau3.worker import Worker
from agentrl.env.registry import make
from agentrl.errors import ConfigError, EnvFault, PackageMissing
from agentrl.messages import Action
from agentrl.policy.base import Policy
from agentrl.policy.scripted import NullPolicy, OraclePolicy, ScriptedPolicy
from agentrl.rollout.episode import run_episode
from tests.policy.chat_server import ChatServer, completion

ENV = "agentrl.adapters.tau3.talk:Tau3"
GREETING = "Hi! How can I help you today?"
FUNCTION = {"description": "It.", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}}


def task(*actions, told=("7",), history=None):
    made = [{"name": name, "arguments": arguments, "requestor": who} for who, name, arguments in actions]
    criteria = {"actions": made, "communicate_info": list(told), "reward_basis": ["DB", "NL_ASSERTION"]}
    return {"evaluation_criteria": criteria, "initial_state": {"message_history": history}}


TASKS = {
    "buy": task(("assistant", "order", {"n": 1}), ("user", "pay", {"n": 7})),
    "idle": task(told=()),
    "begun": task(history=[{"role": "user", "content": "Hi"}]),
}


class Shop:
    """Worlds of a shop: a task is solved if what its solution calls was called, and nothing else."""

    def __init__(self):
        self.open_worlds, self.count, self.judged = {}, 0, []

    def version(self):
        return "1.0"

    def tasks(self, domain):
        return TASKS

    def beginning(self, domain, id):
        return {
            "agent": "Keep to the rules.",
            "user": f"You are a customer. {id}",
            "scenario": f"I want: {id}",
            "greeting": GREETING,
            "stops": ["###STOP###", "###TRANSFER###"],
            "tools": [{"name": "order", **FUNCTION}],
            "user_tools": [{"name": "pay", **FUNCTION}],
            "not_judged": ["NL_ASSERTION"],
        }

    def open(self, domain, id):
        self.count += 1
        self.open_worlds[self.count] = (id, [])
        return self.count

    def call(self, number, made):
        self.open_worlds[number][1].append((made["requestor"], made["name"], made["arguments"]))
        wrong = made["arguments"].get("n") == 13
        return {"role": "tool", "id": made["id"], "content": "Error: 13" if wrong else "ok", "error": wrong}

    def verdict(self, number, messages):
        self.judged = messages
        id, called = self.open_worlds[number]
        wanted = TASKS[id]["evaluation_criteria"]["actions"]
        return float(called == [(a["requestor"], a["name"], a["arguments"]) for a in wanted])

    def close(self, number):
        del self.open_worlds[number]


@pytest.fixture
def shop(monkeypatch):
    shop = Shop()
    talk._tasks.cache_clear()
    monkeypatch.setattr(talk, "_worlds", lambda python: shop)
    yield shop
    talk._tasks.cache_clear()


async def played(env, policy, name):
    return await run_episode(env, policy, env.tasks[f"mock-{name}"], 1)


async def test_the_solution_passes_with_calls_of_both_speakers_and_no_world_stays_open(shop):
    env = make(ENV, domain="mock")
    assert [t.id for t in env.tasks.split("eval")] == ["mock-buy", "mock-idle"], "one has begun, and is left out"
    trajectory = await played(env, OraclePolicy(), "buy")
    assert (trajectory.reward, trajectory.ending.kind) == (1.0, "answer")
    assert [t["function"]["name"] for t in env.tool_schemas] == ["order"], "the user's tools are its own"
    assert [m.content for m in trajectory.turns[0].observation] == ["Keep to the rules.", GREETING, "I want: buy"]
    assert trajectory.info["not_judged"] == ["NL_ASSERTION"]
    assert trajectory.info["user_calls"][1] == [[{"name": "pay", "arguments": {"n": 7}}]]
    assert shop.open_worlds == {}
    said = [(m["role"], m.get("content") or m["tool_calls"][0]["name"]) for m in shop.judged]
    assert said[:5] == [
        ("assistant", GREETING),
        ("user", "I want: buy"),
        ("assistant", "order"),
        ("tool", "ok"),
        said[4],
    ]
    assert said[5:] == [
        ("user", "pay"),
        ("tool", "ok"),
        ("user", "It says: ok"),
        ("assistant", "7"),
        ("user", "###STOP###"),
    ]


async def test_doing_nothing_passes_only_where_nothing_was_to_be_done(shop):
    env = make(ENV, domain="mock")
    assert [(await played(env, NullPolicy(), name)).reward for name in ("buy", "idle")] == [0.0, 1.0]


async def test_a_conversation_that_the_user_has_not_ended_has_failed(shop):
    class Talks(Policy):
        async def act(self, messages, tools, *, episode_id, sampling=None):
            return Action(f"Please call this: {json.dumps({'name': 'pay', 'arguments': {'n': 1}})}")

    env = make(ENV, domain="mock", max_turns=3)
    trajectory = await played(env, Talks(), "idle")
    assert (trajectory.reward, trajectory.ending.detail) == (0.0, "max_turns")


async def test_ten_errors_of_tools_end_the_conversation_as_failed(shop):
    from agentrl.env.tool_env import call

    class Errs(Policy):
        turns = 0

        async def act(self, messages, tools, *, episode_id, sampling=None):
            self.turns += 1
            return call("order", n=13)

    policy = Errs()
    trajectory = await played(make(ENV, domain="mock"), policy, "idle")
    assert (trajectory.reward, trajectory.ending.kind) == (0.0, "tool")
    assert policy.turns == 11


async def test_a_policy_as_the_user_reads_the_packages_prompt_and_ends_by_its_word(shop):
    class Customer(Policy):
        seen = ()

        async def act(self, messages, tools, *, episode_id, sampling=None):
            self.seen = [(m.role, m.content) for m in messages]
            self.tools = [t["function"]["name"] for t in tools]
            return Action("###STOP###" if len(messages) > 2 else "A book, please.")

    class Says(Policy):
        async def act(self, messages, tools, *, episode_id, sampling=None):
            return Action("Which one?")

    env = make(ENV, domain="mock", user="openai:none", base_url="http://127.0.0.1:9/v1")
    customer = Customer()
    assert isinstance(env.unwrapped.user, _Customer)
    env.unwrapped.user._policy = customer
    trajectory = await played(env, Says(), "idle")
    assert trajectory.reward == 1.0
    assert customer.tools == ["pay"]
    assert customer.seen == [
        ("system", "You are a customer. idle"),
        ("user", GREETING),
        ("assistant", "A book, please."),
        ("user", "Which one?"),
    ]


async def test_a_server_that_plays_the_user_gets_its_own_key(shop, monkeypatch):
    server = ChatServer()
    server.start()
    try:
        body = json.dumps([{"json": completion("A book, please.")}, {"json": completion("###STOP###")}]).encode()
        httpx.post(f"{server.url.removesuffix('/v1')}/script", content=body).raise_for_status()
        monkeypatch.setenv("KEY_OF_THE_USER", "sk-user")
        env = make(ENV, domain="mock", user="openai:customer", base_url=server.url, api_key_env="KEY_OF_THE_USER")
        trajectory = await played(env, ScriptedPolicy(["Which one?", "Bye."]), "idle")
        asked = httpx.get(f"{server.url.removesuffix('/v1')}/log").json()["requests"]
    finally:
        server.kill()
    assert trajectory.reward == 1.0
    assert [(one["body"]["model"], one["headers"]["Authorization"]) for one in asked] == [
        ("customer", "Bearer sk-user")
    ] * 2


# The worker process.

ECHO = """
import json, sys, os
for line in sys.stdin:
    name, given = json.loads(line)
    if name == "close":
        os._exit(3)
    if name == "lacks":
        print(json.dumps({"error": "ModuleNotFoundError: No module named 'tau2'"}), flush=True)
    elif name == "fails":
        print(json.dumps({"error": "ValueError: odd"}), flush=True)
    else:
        print(json.dumps({"value": [name, given, os.getpid(), os.environ.get("OPENAI_API_KEY")]}), flush=True)
"""


@pytest.fixture
def echo(tmp_path, monkeypatch):
    file = tmp_path / "echo.py"
    file.write_text(ECHO)
    monkeypatch.setattr(worker, "_FILE", file)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    made = Worker(sys.executable)
    yield made
    made.end()


def test_a_worker_answers_with_values_and_gets_no_keys(echo):
    name, given, pid, key = echo.tasks("retail")
    assert (name, given, key) == ("tasks", ["retail"], None)
    assert echo.open("x" * 200_000, 1)[1:3] == [["x" * 200_000, 1], pid]


def test_a_worker_that_ends_is_a_fault_of_the_host_and_the_next_request_starts_another(echo):
    pid = echo.tasks("retail")[2]
    with pytest.raises(EnvFault, match="exit code 3") as caught:
        echo.close(1)
    assert caught.value.at == "host"
    assert echo.tasks("retail")[2] != pid


def test_what_a_worker_raises_is_said(echo):
    with pytest.raises(PackageMissing, match=r"tau2-bench is not installed for .*No module named 'tau2'"):
        echo.lacks()
    with pytest.raises(EnvFault, match="could not fails: ValueError: odd"):
        echo.fails()


def test_a_python_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"python='/no/python' cannot be run"):
        Worker("/no/python").version()


def test_a_domain_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"tau3 has no domain 'retial'\. Did you mean 'retail'"):
        Tau3(domain="retial")


@pytest.mark.parametrize("error", [ImportError("no bm25"), OSError("no disk"), MemoryError()])
def test_a_check_that_cannot_run_is_no_verdict(monkeypatch, error):
    def fails(*given):
        raise error

    monkeypatch.setitem(sys.modules, "tau2.data_model.message", Mock())
    monkeypatch.setattr(world, "verdict", fails)
    worlds = object.__new__(world.Worlds)
    worlds._open = {0: ("mock", object(), None)}
    with pytest.raises(type(error)):
        worlds.verdict(0, [])
    error = ValueError("an action is missing")
    assert worlds.verdict(0, []) == 0.0
