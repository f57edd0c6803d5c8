"""No doing of a policy changes the count: faults that come again, with and without evidence that others are served."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import httpx
import pytest

from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvFault, PolicyFault
from agentrl.messages import Action
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.scripted import OraclePolicy
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.tool_schema import tool
from agentrl.tools.http_api import HttpApi, HttpSettings, Retry
from agentrl.trajectory import Ending, EnvRef, Task

NUM = 24
QUICK = {"backoff_s": 0, "env_id": "test/Stock-v0", "max_fault_fraction": 1.0}


class Server:
    """Answers with a price, with 500 to some text that fits the schema, and with 503 to everything while it is down."""

    def __init__(self) -> None:
        self.down = False
        self.requests = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        if self.down:
            return httpx.Response(503, text="under repair")
        text = request.url.params.get("item", "") + request.content.decode()
        return httpx.Response(500) if "odd" in text else httpx.Response(200, text="7")


class Stock(ToolEnv):
    """Say the price of an item. Every tool fails on text that fits its schema, each in a way of its own."""

    tasks = Tasks.of(train=[{"n": n} for n in range(NUM)])
    limits = Limits(max_turns=4)
    tool_timeout_s = 0.05
    server = Server()
    api: HttpApi

    @classmethod
    def fresh(cls) -> type[Stock]:
        server = Server()
        api = HttpApi(
            "https://stock.example",
            transport=httpx.MockTransport(server),
            settings=HttpSettings(retry=Retry(attempts=2, base_s=0.0)),
        )
        return type("Stock", (cls,), {"server": server, "api": api})

    def start(self, task: Task) -> str:
        self.saved: dict[str, int] = {}
        return f"Price {task.data['n']}?"

    @tool
    async def get(self, item: str) -> str:
        """Read a price."""
        return (await self.api.request("GET", "price", params=[("item", item)])).text

    @tool
    async def post(self, item: str) -> str:
        """Ask for a price."""
        return (await self.api.request("POST", "price", json=item)).text

    @tool
    def look(self, item: str) -> int:
        """Look a price up."""
        return {"tea": 7}[item]

    @tool
    async def wait(self, seconds: float) -> int:
        """Wait for a price."""
        await asyncio.sleep(seconds)
        return 7

    @tool
    async def dial(self, host: str) -> int:
        """Ask another shop."""
        if host != "shop":
            raise ConnectionRefusedError(host)
        return 7

    @tool
    def keep(self, item: str) -> int:
        """Keep an item; the score counts what was kept."""
        self.saved[item] = 7
        return 7

    def score(self, answer: str | None) -> float:
        return float(answer == "7") if sum(len(item) for item in self.saved) < 9 else 1 / 0

    def oracle(self, messages):
        return [call("get", item="tea"), Action("7")][len(messages) // 2]


GOOD = {
    "get": call("get", item="tea"),
    "post": call("post", item="tea"),
    "look": call("look", item="tea"),
    "wait": call("wait", seconds=0.0),
    "dial": call("dial", host="shop"),
    "keep": call("keep", item="tea"),
}
BAD: dict[str, Callable[[str], Action]] = {
    "get": lambda salt: call("get", item=f"odd{salt}"),
    "post": lambda salt: call("post", item=f"odd{salt}"),
    "look": lambda salt: call("look", item=f"odd{salt}"),
    "wait": lambda salt: call("wait", seconds=60 + len(salt)),
    "dial": lambda salt: call("dial", host=f"odd{salt}"),
    "keep": lambda salt: call("keep", item=f"a long item{salt}"),
}


class Cheat(Policy):
    """Wins where the number is even, and tries to get its other episodes discarded."""

    sampling = SamplingParams()

    def __init__(self, tool: str, *, varies: bool = False) -> None:
        self.tool, self.salts = tool, itertools.count() if varies else itertools.repeat(0)

    async def act(self, messages, tools, *, episode_id, sampling=None):
        wins = int(messages[0].content.split()[1].rstrip("?")) % 2 == 0
        if len(messages) == 1:
            return GOOD[self.tool] if wins else BAD[self.tool]("x" * next(self.salts))
        return Action("7" if wins else "never mind")


class Honest(Cheat):
    """Always wins."""

    async def act(self, messages, tools, *, episode_id, sampling=None):
        return GOOD[self.tool] if len(messages) == 1 else Action("7")


async def played(world: type[ToolEnv], policy: Policy, **options):
    tasks = world.tasks.split("train")
    async with Rollouts(world, policy, **{**QUICK, **options}) as rollouts:
        groups = await rollouts.run(GroupRequest(task, 1) for task in tasks)
    return [group.trajectories[0] for group in groups]


@pytest.mark.parametrize("varies", [False, True], ids=["same", "varies"])
@pytest.mark.parametrize("max_concurrency", [1, 8])
@pytest.mark.parametrize("name", GOOD)
async def test_a_policy_that_makes_the_environment_fail_has_its_honest_success(name, max_concurrency, varies):
    episodes = await played(Stock.fresh(), Cheat(name, varies=varies), max_concurrency=max_concurrency)
    assert [t.status for t in episodes] == ["terminated"] * NUM
    assert [t.success for t in episodes] == [n % 2 == 0 for n in range(NUM)]


async def test_the_model_reads_what_a_server_does_not_take_and_goes_on():
    episodes = await played(Stock.fresh(), Cheat("post"))
    assert episodes[1].turns[0].next_observation[0].content.startswith("Error: ")
    assert "500" in episodes[1].turns[0].next_observation[0].content
    assert episodes[1].turns[1].action.text == "never mind"
    assert episodes[1].ending == Ending("answer")


async def test_author_code_that_raises_again_is_named_and_the_episode_counts_as_failed():
    episodes = await played(Stock.fresh(), Cheat("look"), max_attempts=2)
    assert episodes[1].ending.kind == "error"
    assert episodes[1].ending.who == "author"
    assert "KeyError" in episodes[1].ending.detail
    assert "test_verdict.py:" in episodes[1].ending.detail
    assert episodes[1].labels.attempt == 1


@pytest.mark.parametrize("max_attempts", [1, 2, 5])
async def test_however_few_attempts_a_fault_after_an_action_is_tried_once_more(max_attempts):
    episodes = await played(Stock.fresh(), Cheat("keep"), max_attempts=max_attempts)
    assert {t.labels.attempt for t in episodes[1::2]} == {max(1, max_attempts - 1)}
    assert sum(t.success for t in episodes) == NUM / 2


@pytest.mark.parametrize("name", ["get", "post"])
async def test_a_server_that_is_down_for_a_while_costs_no_honest_episode(name):
    world = Stock.fresh()
    finished: list[str] = []

    def note(trajectory):
        finished.append(trajectory.status)
        world.server.down = 6 <= len(finished) < 12

    episodes = await played(world, Honest(name), max_concurrency=1, on_trajectory=note)
    assert [t.status for t in episodes] == ["terminated"] * 6 + ["fault"] * 6 + ["terminated"] * (NUM - 12)
    assert {t.ending.who for t in episodes[6:12]} == {"server"}
    assert all(t.success for t in episodes if t.status != "fault")


@pytest.mark.parametrize("name", ["get", "post"])
async def test_a_database_that_is_down_from_the_beginning_costs_no_honest_episode(name):
    """The server answers 404 at its own address, which says nothing about the database behind it."""
    world = Stock.fresh()
    world.oracle = None
    transport = httpx.MockTransport(lambda request: httpx.Response(500 if request.url.path == "/price" else 404))
    settings = HttpSettings(retry=Retry(attempts=2, base_s=0.0))
    world.api = HttpApi("https://stock.example", transport=transport, settings=settings)
    episodes = await played(world, Honest(name))
    assert {(t.status, t.ending.who) for t in episodes} == {("fault", "server")}


async def test_author_code_that_fails_for_everybody_is_no_failure_of_the_model():
    class Breaks(Stock):
        oracle = None
        broken = False

        def score(self, answer: str | None) -> float:
            return 1 / 0 if self.broken else super().score(answer)

    finished: list[str] = []

    def note(trajectory):
        finished.append(trajectory.status)
        Breaks.broken = 6 <= len(finished) < 12

    episodes = await played(Breaks, Honest("keep"), max_concurrency=1, on_trajectory=note)
    assert [t.status for t in episodes] == ["terminated"] * 6 + ["fault"] * 6 + ["terminated"] * (NUM - 12)
    assert {t.ending.who for t in episodes[6:12]} == {"author"}


async def test_without_evidence_a_lost_connection_is_discarded():
    class Silent(Stock):
        oracle = None

    class Only(Cheat):
        async def act(self, messages, tools, *, episode_id, sampling=None):
            return BAD["dial"]("") if len(messages) == 1 else Action("7")

    episodes = await played(Silent, Only("dial"))
    assert {(t.status, t.ending.who) for t in episodes} == {("fault", "network")}


class Refusing(Policy):
    """A server that fails on a conversation with a word in it, however often it is asked."""

    sampling = SamplingParams()
    down = False

    async def act(self, messages, tools, *, episode_id, sampling=None):
        if self.down or any("crash" in message.content for message in messages[1:]):
            raise PolicyFault("status 500")
        wins = int(messages[0].content.split()[1].rstrip("?")) % 2 == 0
        if len(messages) > 1:
            return Action("7")
        return GOOD["keep"] if wins else Action("crash", tool_calls=GOOD["keep"].tool_calls)


async def test_what_the_model_said_cannot_make_its_server_discard_the_episode():
    episodes = await played(Stock.fresh(), Refusing())
    assert [t.success for t in episodes] == [n % 2 == 0 for n in range(NUM)]
    assert {t.ending.kind for t in episodes[1::2]} == {"error"}
    assert {t.ending.who for t in episodes[1::2]} == {"server"}


async def test_a_policys_server_that_is_gone_discards():
    policy = Refusing()

    def note(trajectory):
        policy.down = True

    episodes = await played(Stock.fresh(), policy, max_concurrency=1, on_trajectory=note)
    assert [t.status for t in episodes] == ["terminated"] + ["fault"] * (NUM - 1)


async def test_a_server_that_aborts_the_first_turn_discards():
    class Aborting(Policy):
        sampling = SamplingParams()

        async def act(self, messages, tools, *, episode_id, sampling=None):
            return Action("half a w", finish_reason="abort")

    episodes = await played(Stock.fresh(), Aborting())
    assert {(t.status, t.ending.who) for t in episodes} == {("fault", "server")}


async def test_a_control_that_awaits_something_cancelled_ends_no_run():
    class Breaks(Stock):
        oracle = None
        broken = False

        async def astep(self, action):
            if self.broken:
                raise asyncio.CancelledError
            return await super().astep(action)

    finished: list[str] = []

    def note(trajectory):
        finished.append(trajectory.status)
        Breaks.broken = len(finished) >= 6

    episodes = await played(Breaks, Honest("keep"), max_concurrency=1, on_trajectory=note)
    assert [t.status for t in episodes] == ["terminated"] * 6 + ["fault"] * (NUM - 6)


async def test_a_fault_before_the_model_acted_stays_a_fault():
    class Broken(Stock.fresh()):
        def start(self, task: Task) -> str:
            if task.data["n"] % 2:
                raise EnvFault("no stock")
            return super().start(task)

    episodes = await played(Broken, OraclePolicy())
    assert [t.status for t in episodes] == ["terminated", "fault"] * (NUM // 2)
    assert episodes[1].env == EnvRef("test/Stock-v0")


async def test_a_policy_has_no_second_choice_by_making_its_episode_fault():
    class Gambler(Policy):
        """Draws a number; a bad draw makes the tool fail, in the hope of another draw."""

        sampling = SamplingParams()
        draws = 0

        async def act(self, messages, tools, *, episode_id, sampling=None):
            if len(messages) > 1:
                return Action("7")
            self.draws += 1
            return GOOD["look"] if self.draws % 4 == 0 else BAD["look"](str(self.draws))

    policy = Gambler()
    episodes = await played(Stock.fresh(), policy, max_concurrency=1)
    assert policy.draws == NUM
    assert sum(t.success for t in episodes) == NUM / 4


async def test_where_the_environment_answers_otherwise_the_policy_is_asked_again():
    class Moody(Stock):
        resets = itertools.count()
        looks = itertools.count()

        def start(self, task: Task) -> str:
            super().start(task)
            return f"Price {2 * next(self.resets)}?"

        @tool
        def look(self, item: str) -> int:
            """Look a price up."""
            return 7 if next(self.looks) else 1 // 0

    policy = Honest("look")
    (episode,) = await played(type("One", (Moody,), {"tasks": Tasks.of(train=[{"n": 0}])}), policy)
    assert (episode.labels.attempt, episode.success) == (1, True)
    assert episode.turns[0].observation[0].content == "Price 2?"
