"""Tapes of APIs with a state: an episode gets the answers of its own course of events, and of no other."""

from __future__ import annotations

import asyncio
import json

import pytest

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import ConfigError, EnvFault
from agentrl.tool_schema import tool
from agentrl.tools.cassette import Cassette
from agentrl.tools.http_api import HttpApi


@pytest.fixture
def counter(server, canned):
    """A server that counts; `/reset` begins anew."""
    count = 0

    def answer(request):
        nonlocal count
        count = {"/reset": 0, "/add": count + 1}.get(request.path, count)
        return canned(body=b"%d" % count)

    server.rest = answer
    return server


METHODS = {"reset": "PUT", "add": "POST", "count": "GET"}


class Course:
    """Environments of one cassette; each plays courses of requests."""

    def __init__(self, server, tape, mode, **options):
        cassette = Cassette(tape, mode, match_host=False, **options)
        api = HttpApi(server.url, transport=cassette)

        class Counting(ToolEnv):
            tasks = Tasks.of(train=[{}, {}])

            async def start(self, task):
                cassette.start_episode(task.id)
                await api.request("PUT", "/reset")
                return "go"

            async def score(self, answer):
                return 1.0

            @tool
            async def ask(self, path: str) -> str:
                """Ask the server."""
                return (await api.request(METHODS[path], f"/{path}")).text

            async def aclose(self):
                await super().aclose()
                await api.aclose()

        self.env = Counting

    async def play(self, *paths, task="train-0"):
        env = self.env()
        await env.areset(seed=1, options={"task": task})
        try:
            return [await self.ask(env, path) for path in paths]
        finally:
            await env.aclose()

    async def ask(self, env, path):
        return (await env.astep(call("ask", path=path)))[0][0].content


async def test_another_course_of_events_does_not_get_the_answers_of_this_one(counter, tmp_path):
    tape = tmp_path / "tape.jsonl"
    recording = Course(counter, tape, "record")
    assert await recording.play("add", "add", "count") == ["1", "2", "2"]
    assert await recording.play("count", "add", "count") == ["0", "1", "1"]
    replaying = Course(counter, tape, "replay")
    assert await replaying.play("add", "add", "count") == ["1", "2", "2"]
    assert await replaying.play("add", "count", "count") == ["1", "1", "1"]  # a read changes nothing
    assert await replaying.play("count", "count", "add") == ["0", "0", "1"]
    message = (
        r"has no answer to POST http://any/add in episode 'train-0' after PUT /reset -> POST /add -> POST /add; "
        r"record this course with Cassette\(.*, mode='record'\)"
    )
    with pytest.raises(EnvFault, match=message) as caught:
        await replaying.play("add", "add", "add")
    assert caught.value.at == "author"
    with pytest.raises(EnvFault, match="in episode 'train-1' after nothing that changes the server"):
        await replaying.play("add", task="train-1")


async def test_where_every_request_may_change_the_server_the_course_holds_reads_too(counter, tmp_path):
    tape = tmp_path / "tape.jsonl"
    await Course(counter, tape, "record", reads=()).play("add", "count")
    replaying = Course(counter, tape, "replay", reads=())
    assert await replaying.play("add", "count") == ["1", "1"]
    with pytest.raises(EnvFault, match="after PUT /reset -> POST /add -> GET /count;"):
        await replaying.play("add", "count", "count")


async def test_the_place_on_a_tape_belongs_to_the_environment(counter, tmp_path):
    tape = tmp_path / "tape.jsonl"
    await Course(counter, tape, "record").play("count", "add", "count")
    course = Course(counter, tape, "replay")
    envs = [course.env() for _ in range(3)]
    await asyncio.gather(*(env.areset(seed=1, options={"task": "train-0"}) for env in envs))
    assert await asyncio.gather(*(course.ask(env, "count") for env in envs)) == ["0", "0", "0"]
    assert await course.ask(envs[0], "add") == "1"
    twin = await envs[0].afork()
    assert [await course.ask(env, "count") for env in (envs[0], twin, envs[1])] == ["1", "1", "0"]
    state = await envs[1].aget_state()
    assert await course.ask(envs[1], "add") == "1"
    await envs[1].aset_state(state)
    assert await course.ask(envs[1], "count") == "0"
    for env in (*envs, twin):
        await env.aclose()


def test_a_place_on_a_tape_without_an_event_loop(counter, tmp_path):
    # Not an async test: the synchronous face is used where no loop runs.
    tape = tmp_path / "tape.jsonl"
    asyncio.run(Course(counter, tape, "record").play("add", "count"))
    env = Course(counter, tape, "replay").env()
    env.reset(seed=1, options={"task": "train-0"})
    assert env.step(call("ask", path="add"))[0][0].content == "1"
    twin = env.fork()
    for one in (env, twin):
        assert one.step(call("ask", path="count"))[0][0].content == "1"
        one.close()


async def test_an_episode_that_began_on_the_tape_does_not_go_on_at_the_server(counter, tmp_path):
    tape = tmp_path / "tape.jsonl"
    assert await Course(counter, tape, "auto").play("add", "count") == ["1", "1"]
    counter.seen.clear()
    with pytest.raises(EnvFault, match="and the server has not seen what the tape answered before; record this course"):
        await Course(counter, tape, "auto").play("add", "add")
    assert not counter.seen


def test_a_tape_of_an_earlier_version_is_refused(tmp_path):
    tape = tmp_path / "tape.jsonl"
    old = {"episode": "e", "method": "GET", "url": "http://any/x", "body": "", "n": 0, "status": 200, "text": "1"}
    tape.write_text(json.dumps({**old, "headers": {}}) + "\n")
    with pytest.raises(ConfigError, match=r"line 1: an earlier version recorded the episode 'e', .*record it again"):
        Cassette(tape)
    tape.write_text(json.dumps({**old, "episode": "", "headers": {}}) + "\n")
    assert Cassette(tape)
