"""Sessions of episodes: a stateful API tells its episodes apart, and begins each anew."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from urllib.parse import parse_qs, urlsplit

import pytest

from agentrl.env.check import check_env
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvFault, ForkRefused, ToolSchemaError
from agentrl.tool_schema import tool
from agentrl.tools.cassette import Cassette
from agentrl.tools.http_api import HttpApi, HttpSettings, Retry, Session
from agentrl.tools.openapi import api_tools

QUICK = HttpSettings(timeout_s=60, retry=Retry(attempts=3, base_s=0.001))


def operation(name, *parameters, **more):
    return {"operationId": name, "parameters": list(parameters), "responses": {}, **more}


SESSION = {"name": "x-session", "in": "header", "schema": {"type": "string"}}
SEED = {"name": "seed", "in": "query", "required": True, "schema": {"type": "integer"}}
COUNTER = {
    "openapi": "3.1.0",
    "paths": {
        "/count": {"get": operation("count", SESSION)},
        "/add": {"post": operation("add", SESSION)},
        "/reset": {"put": operation("reset", SESSION, SEED)},
    },
}


@pytest.fixture
def counter(server, canned):
    """Counts in each session, from the seed on; `sessions` holds what was counted."""
    server.sessions = defaultdict(int)

    def answer(request):
        session, url = request.headers.get("x-session", "shared"), urlsplit(request.path)
        if url.path == "/reset":
            server.sessions[session] = int(parse_qs(url.query)["seed"][0])
        if url.path == "/add":
            server.sessions[session] += 1
        return canned(body=json.dumps({"n": server.sessions[session], "session": session}).encode())

    server.rest = answer
    return server


def counting(server, **options):
    """An environment in which the answer is the seed and what was added."""
    given = {"session": "X-Session", "reset": "reset", "seed": "seed", "settings": QUICK, **options}
    api = api_tools(COUNTER, base_url=server.url, **given)

    class Counting(ToolEnv):
        tasks = Tasks.of(train=[{"seed": 10 * n} for n in range(8)], eval=[{"seed": 500}])
        extra_tools = api

        async def start(self, task):
            return "Add once; what is the count?"

        async def score(self, answer):
            return float(answer == str((await api.call("count"))["n"]) == str(self.task.data["seed"] + 1))

        def oracle(self, messages):
            last = messages[-1]
            if last.role == "user":
                return call("add")
            return str(json.loads(last.content)["n"])

    return Counting


async def play(env, task, *actions):
    """The tool texts of an episode, and its reward if it ended."""
    await env.areset(seed=1, options={"task": task})
    seen = []
    for action in actions:
        observation, reward, *_ = await env.astep(action)
        seen.append(json.loads(observation[0].content)["n"] if observation else reward)
    return seen


async def test_episodes_at_once_do_not_meet_on_the_server(counter):
    made = counting(counter)
    envs = [made() for _ in range(64)]
    plays = [
        play(env, f"train-{i % 8}", call("add"), call("count"), str(10 * (i % 8) + 1)) for i, env in enumerate(envs)
    ]
    for i, seen in enumerate(await asyncio.gather(*plays)):
        assert seen == [10 * (i % 8) + 1, 10 * (i % 8) + 1, 1.0]
    for env in envs:
        await env.aclose()
    assert len(counter.sessions) == 64


def test_the_checker_finds_nothing(counter):
    report = check_env(counting(counter), processes=False)
    assert report.ok, report


def test_the_model_sees_neither_session_nor_reset(counter):
    schemas = {tool.name: tool.schema["function"]["parameters"] for tool in counting(counter).extra_tools}
    assert schemas.keys() == {"count", "add"}
    assert all(schema["properties"] == {} for schema in schemas.values())


async def test_a_session_that_the_server_echoes_is_hidden(counter):
    env = counting(counter)()
    await env.areset(seed=1)
    observation, *_ = await env.astep(call("add"))
    assert json.loads(observation[0].content)["session"] == "REDACTED"
    await env.aclose()


async def test_a_reset_happens_once_in_an_episode_also_where_requests_are_sent_at_once(counter):
    made = counting(counter)
    api = made.extra_tools

    class AtOnce(made):
        async def start(self, task):
            self.counts = await asyncio.gather(*(api.call("count") for _ in range(3)))
            return "go"

    env = AtOnce()
    for episodes in (1, 2):
        await env.areset(seed=1, options={"task": "train-3"})
        assert [found["n"] for found in env.counts] == [30, 30, 30]
        assert len([request for request in counter.seen if request.path.startswith("/reset")]) == episodes
    await env.aclose()


async def test_the_seed_is_that_of_the_environment_where_the_task_has_none(counter):
    made = counting(counter)
    made.tasks = Tasks.of(train=[{}, {}])
    env, seeds = made(), []
    for seed, task in ((1, "train-0"), (1, "train-0"), (2, "train-0"), (1, "train-1")):
        await env.areset(seed=seed, options={"task": task})
        await env.astep(call("count"))
        seeds.append([request.path for request in counter.seen if request.path.startswith("/reset")][-1])
    await env.aclose()
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3


async def test_a_reset_that_fails_is_a_fault_and_not_a_score(counter, canned):
    env = counting(counter)()
    await env.areset(seed=1)
    counter.script = [canned(404, body=b"no desk")]
    with pytest.raises(EnvFault, match=r"reset='reset' failed: status 404: no desk") as caught:
        await env.astep(call("add"))
    assert caught.value.at == "author"
    await env.aclose()


async def test_an_episode_with_a_session_cannot_be_forked(counter):
    env = counting(counter)()
    await env.areset(seed=1)
    twin = await env.afork()  # nothing was asked of the server yet
    await env.astep(call("add"))
    with pytest.raises(ForkRefused, match=r"a server holds its .*; to reach the same point"):
        await env.afork()
    await env.aclose()
    await twin.aclose()


def test_an_environment_can_say_that_it_cannot_be_forked():
    class Remote(ToolEnv):
        can_fork = False

        def start(self, task):
            return "go"

        def score(self, answer):
            return 1.0

    env = Remote()
    env.reset(seed=1)
    with pytest.raises(ForkRefused, match="can_fork is False"):
        env.fork()
    assert "fork-fails" not in {finding.code for finding in check_env(Remote, processes=False).findings}


async def test_replayed_sessions_can_be_forked_and_need_no_server(counter, tmp_path):
    tape = tmp_path / "tape.jsonl"
    await play(counting(counter, transport=Cassette(tape, "record"))(), "train-1", call("add"), call("count"), "11")
    counter.stop()
    env = counting(counter, transport=Cassette(tape, "replay"))()
    assert await play(env, "train-1", call("add")) == [11]
    twin = await env.afork()
    for one in (env, twin):
        observation, *_ = await one.astep(call("count"))
        assert json.loads(observation[0].content)["n"] == 11
        await one.aclose()
    counter.start()


@pytest.mark.parametrize("where", ["header", "query", "cookie", "path"])
async def test_where_a_session_goes(server, where):
    path = "/{sid}/x" if where == "path" else "/x"
    places = {"header": "header", "query": "query", "cookie": "cookie", "path": "path"}
    parameter = {"name": "sid", "in": places[where], "required": True, "schema": {"type": "string"}}
    document = {"openapi": "3.0.0", "paths": {path: {"get": operation("x", parameter)}}}
    api = api_tools(document, base_url=server.url, session=Session("sid", where, value="session"))

    class One(ToolEnv):
        extra_tools = api

        def start(self, task):
            self.session = "a b/c;d" if where != "header" else "abc"
            return "go"

        async def score(self, answer):
            return 1.0

    env = One()
    await env.areset(seed=1)
    await env.astep(call("x"))
    await env.aclose()
    seen = server.seen[0]
    assert api[0].schema["function"]["parameters"]["properties"] == {}
    if where == "header":
        assert seen.headers["sid"] == "abc"
    elif where == "cookie":
        assert seen.headers["cookie"] == "sid=a%20b/c%3Bd"
    else:
        assert seen.path == {"query": "/x?sid=a+b%2Fc%3Bd", "path": "/a%20b%2Fc%3Bd/x"}[where]


async def test_a_path_that_has_no_session_is_a_fault_of_the_author(server):
    api = HttpApi(server.url + "/{tenant}", session=Session("tenant", "path"))
    with pytest.raises(EnvFault, match="no environment gives it a value") as caught:
        await api.request("GET", "/x")
    assert caught.value.at == "author"
    assert not server.seen


async def test_tools_of_the_author_are_in_the_session_too(counter):
    api = api_tools(COUNTER, base_url=counter.url, session="X-Session", include=["count"])

    class Own(ToolEnv):
        async def start(self, task):
            await api.api.request("POST", "/add")
            return "go"

        @tool
        async def twice(self) -> int:
            """Add twice."""
            await api.call("add")
            return (await api.call("add"))["n"]

        async def score(self, answer):
            return float((await api.call("count"))["n"])

    env = Own()
    await env.areset(seed=1)
    observation, *_ = await env.astep(call("twice"))
    assert observation[0].content == "3"
    assert (await env.astep("done"))[1] == 3.0
    await api.aclose()
    assert [n for n in counter.sessions.values() if n] == [3]


async def test_hidden_and_fixed_parameters(server):
    body = {
        "type": "object",
        "required": ["name", "tenant"],
        "properties": {"name": {"type": "string"}, "tenant": {"type": "string"}, "debug": {"type": "boolean"}},
    }
    parameters = [
        {"name": "per_page", "in": "query", "schema": {"type": "integer"}},
        {"name": "trace", "in": "header", "schema": {"type": "string"}},
    ]
    content = {"application/json": {"schema": body}}
    document = {
        "openapi": "3.0.0",
        "paths": {"/x": {"post": operation("x", *parameters, requestBody={"required": True, "content": content})}},
    }
    fix = {"per_page": 5, "tenant": lambda env: f"t{env.task.data['n']}"}
    api = api_tools(document, base_url=server.url, hide=["trace", "debug"], fix=fix)
    assert list(api[0].schema["function"]["parameters"]["properties"]) == ["name"]

    class One(ToolEnv):
        tasks = Tasks.of(train=[{"n": 7}])
        extra_tools = api

        def start(self, task):
            return "go"

        def score(self, answer):
            return 1.0

    env = One()
    await env.areset(seed=1)
    await env.astep(call("x", name="a"))
    observation, *_ = await env.astep(call("x", name="a", tenant="other"))
    assert "tenant is not an argument" in observation[0].content
    await env.aclose()
    assert server.seen[0].path == "/x?per_page=5"
    assert json.loads(server.seen[0].body) == {"tenant": "t7", "name": "a"}
    assert "trace" not in server.seen[0].headers
    (same,) = api_tools(document, base_url=server.url, session="trace", hide=["TRACE", "per_page"], fix={"tenant": "t"})
    assert list(same.schema["function"]["parameters"]["properties"]) == ["name", "debug"]
    with pytest.raises(ToolSchemaError, match=r"it requires 'name', which hide= leaves out: .*fix=\{'name': ...\}"):
        api_tools(document, base_url=server.url, hide=["name"])
    with pytest.raises(ToolSchemaError, match=r"no operation has a parameter 'per_pag'\. Did you mean 'per_page'"):
        api_tools(document, base_url=server.url, fix={"per_pag": 5})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset": "rest"}, "no operation 'rest'. Did you mean 'reset'"),
        ({"seed": "sed"}, "reset has no argument 'sed'. Did you mean 'seed'"),
        ({"seed": None}, "reset='reset' also needs 'seed': give it with fix="),
    ],
)
def test_hooks_that_do_not_fit_the_document_are_refused(server, options, message):
    given = {"session": "X-Session", "reset": "reset", "seed": "seed", **options}
    with pytest.raises(ToolSchemaError, match=message):
        api_tools(COUNTER, base_url=server.url, **given)


async def test_calls_by_name(counter):
    api = api_tools(COUNTER, base_url=counter.url, include=["count"])
    assert (await api.call("PUT /reset", seed=4))["n"] == 4
    assert (await api.call("count"))["n"] == 4
    with pytest.raises(ToolSchemaError, match=r"no operation 'cont'\. Did you mean 'count'"):
        await api.call("cont")
    with pytest.raises(ToolSchemaError, match="reset has no argument 'sed'"):
        await api.call("reset", sed=4)
    await api.aclose()
