"""The turn loop, and what becomes of everything that can go wrong in it."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from agentrl.env.base import Env, Limits
from agentrl.env.driving.without_loop import run_without_loop
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvFault, PolicyFault, TaskError
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.scripted import OraclePolicy
from agentrl.rollout import episode
from agentrl.rollout.episode import run_episode
from agentrl.tool_schema import tool
from agentrl.trajectory import Ending, EnvRef, Labels, Task


class Till(ToolEnv):
    """Add coins; one tool for every way to fail."""

    tasks = Tasks.of(train=[{"goal": 3}])
    rubric = Rubric({"right": 1.0, "coins": 0.5})
    limits = Limits(max_turns=3)
    broken = ""

    async def start(self, task: Task) -> str:
        if self.broken == "start":
            raise KeyError("drawer")
        if self.broken == "task":
            raise TaskError("no such task")
        self.sum = 0
        return "Pay 3."

    @tool
    def add(self, coin: int) -> int:
        """Add a coin."""
        if self.broken == "tool":
            raise ZeroDivisionError("coin jam")
        if self.broken == "fault":
            raise EnvFault("till unplugged")
        self.sum += coin
        self.add_reward("coins", coin)
        return self.sum

    async def respond(self, text: str) -> str | None:
        if self.broken == "cancelled":
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        if self.broken == "hang":
            await asyncio.Event().wait()
        return None

    async def score(self, answer: str | None) -> dict[str, float]:
        if self.broken == "nan":
            return {"right": math.nan}
        if self.broken == "name":
            return {"rihgt": 1.0}
        return {"right": float(answer == str(self.sum))}

    def state_key(self) -> str:
        if self.broken == "state_key":
            raise OSError("no key")
        return f"sum={self.sum}"


class Script(Policy):
    """Plays given actions; an exception among them is raised."""

    def __init__(self, *actions: Action | Exception) -> None:
        self.actions = list(actions)
        self.seen: list[list[Message]] = []
        self.keys: set[str] = set()
        self.sampling_seen: list[SamplingParams | None] = []
        self.released: list[str] = []

    async def act(self, messages, tools, *, episode_id, sampling=None):
        self.seen.append(list(messages))
        self.keys.add(episode_id)
        self.sampling_seen.append(sampling)
        action = self.actions.pop(0)
        if isinstance(action, Exception):
            raise action
        return action

    async def release(self, episode_id):
        self.released.append(episode_id)


def till(broken: str = "") -> Till:
    env = Till()
    env.broken = broken
    return env


TASK = Till.tasks["train-0"]


async def play(env, policy, **options):
    return await run_episode(env, policy, TASK, 5, ref=EnvRef("test/Till-v0"), **options)


async def test_an_episode_is_recorded_turn_by_turn():
    sampling = SamplingParams(temperature=0.5, seed=9)
    policy = Script(call("add", coin=1), call("add", coin=2), Action("3"))
    labels = Labels("rl", 3, "greedy", 2)
    options = {"group_id": "g", "episode_id": "g/0", "labels": labels}
    got = await play(till(), policy, sampling=sampling, **options)
    ask, one, three = Message("user", "Pay 3."), _tool("1"), _tool("3")
    assert [turn.observation for turn in got.turns] == [(ask,), (one,), (three,)]
    assert [turn.next_observation for turn in got.turns] == [(one,), (three,), ()]
    assert [turn.reward for turn in got.turns] == [0.5, 1.0, 1.0]
    assert [turn.reward_components for turn in got.turns] == [{"coins": 1.0}, {"coins": 2.0}, {"right": 1.0}]
    assert [turn.state_key for turn in got.turns] == ["sum=0", "sum=1", "sum=3"]
    assert got.reward == 2.5
    assert got.reward_components == {"coins": 3.0, "right": 1.0}
    assert (got.status, got.seed, got.task, got.error) == ("terminated", 5, TASK, None)
    assert (got.env.id, got.group_id, got.episode_id, got.labels) == ("test/Till-v0", "g", "g/0", labels)
    assert got.info == {"task_id": "train-0", "tool_stats": {"add": {"calls": 2, "errors": 0}}}
    assert got.ending == Ending("answer")
    assert got.tools[0]["function"]["name"] == "add"
    assert all(turn.policy_s > 0 and turn.env_s > 0 for turn in got.turns)
    said = [Action(tool_calls=(ToolCall("add", {"coin": n}),)).to_message() for n in (1, 2)]
    assert policy.seen == [[ask], [ask, said[0], one], [ask, said[0], one, said[1], three]]
    assert policy.sampling_seen == [sampling] * 3
    assert policy.released == list(policy.keys)


def _tool(text: str) -> Message:
    return Message("tool", text, tool_call_id="call_0", name="add")


async def test_a_limit_truncates():
    got = await play(till(), Script(*[call("add", coin=1)] * 3))
    assert (got.status, got.ending, len(got.turns)) == ("truncated", Ending("limit", "max_turns"), 3)


@pytest.mark.parametrize(
    ("broken", "error", "turns", "line"),
    [
        ("start", "KeyError: 'drawer'", 0, "in start"),
        ("tool", "ZeroDivisionError: coin jam", 1, "in add"),
        ("fault", "till unplugged", 1, "in add"),
        ("state_key", "OSError: no key", 0, "in state_key"),
        ("name", "reward component 'rihgt' has no weight.", 2, ""),
        ("nan", "nan", 2, ""),
        ("cancelled", "cancelled", 2, "in respond"),
    ],
)
async def test_what_the_author_raises_discards_the_episode_and_names_its_line(broken, error, turns, line):
    policy = Script(call("add", coin=1), Action("1"))
    got = await play(till(broken), policy, labels=Labels("rl"))
    assert got.status == "fault"
    assert got.error.startswith("EnvFault: ")
    assert error in got.error
    assert len(got.turns) == turns
    assert not got.success
    assert got.info == {"task_id": "train-0"}
    assert got.labels == Labels("rl")
    assert len(policy.released) == 1
    if line:
        assert "(test_episode.py:" in got.error
        assert got.error.endswith(f"{line})")


async def test_a_reward_that_is_no_number_discards_the_episode():
    class Bare(Env):
        async def areset(self, *, seed=None, options=None):
            self._begin(seed, options)
            return (Message("user", "go"),), {}

        async def astep(self, action):
            return (), math.inf, True, False, {}

    got = await play(Bare(), Script(Action("x")))
    assert got.status == "fault"
    assert got.error == "EnvFault: step returned reward inf; a reward must be a finite number"


async def test_the_action_that_broke_the_environment_is_kept():
    env = till()
    policy = Script(call("add", coin=1), Action("1"))
    env.broken = "cancelled"
    got = await play(env, policy)
    assert [turn.action.text for turn in got.turns] == ["", "1"]
    assert got.turns[1].next_observation == ()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (PolicyFault("server gone"), "PolicyFault: server gone"),
        (EnvFault("oracle's server gone"), "EnvFault: oracle's server gone"),
        (Action("half a w", finish_reason="abort"), "PolicyFault: the policy aborted the turn"),
    ],
)
async def test_a_policy_fault_discards_the_episode(answer, error):
    policy = Script(call("add", coin=1), answer)
    got = await play(till(), policy)
    assert got.status == "fault"
    assert got.error.startswith(error)
    assert len(policy.released) == 1


@pytest.mark.parametrize("reason", ["content_filter", "refused"])
async def test_a_turn_that_a_filter_or_the_server_withholds_is_a_failure_and_counts(reason):
    got = await play(till(), Script(call("add", coin=3), Action("Paid.", finish_reason=reason)))
    assert (got.status, got.ending, got.success) == ("terminated", Ending("error", reason), False)
    assert len(got.turns) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (IndexError("no such offer"), "the oracle or demonstrator raised IndexError: no such offer (test_episode.py:"),
        (42, "the oracle or demonstrator raised TypeError: an action is an Action"),
    ],
)
async def test_an_oracle_that_raises_discards_the_episode(answer, error):
    class Knowing(Till):
        def oracle(self, messages):
            if isinstance(answer, Exception):
                raise answer
            return answer

    got = await run_episode(Knowing(), OraclePolicy(), TASK, 5, ref=EnvRef("t"))
    assert got.status == "fault"
    assert error in got.error


async def test_a_bug_in_the_policy_propagates_and_still_releases():
    policy = Script(IndexError("ours"))
    with pytest.raises(IndexError, match="ours"):
        await play(till(), policy)
    assert len(policy.released) == 1


async def test_bad_input_propagates():
    with pytest.raises(TaskError, match="no such task"):
        await play(till("task"), Script())


async def test_cancellation_propagates_and_releases():
    policy = Script(Action("1"))
    task = asyncio.create_task(run_episode(till("hang"), policy, TASK, 5, ref=EnvRef("t")))
    await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert len(policy.released) == 1


async def test_the_bound_policy_plays_and_is_released():
    class Seer(Script):
        def bind(self, env):
            bound = Seer(Action(str(env.task.data["goal"])))
            self.bound = bound
            return bound

    policy = Seer()
    got = await play(till(), policy)
    assert got.turns[0].action.text == "3"
    assert len(policy.bound.released) == 1
    assert policy.released == []


def test_an_episode_that_never_waits_needs_no_event_loop():
    got = run_without_loop(run_episode(till(), Script(call("add", coin=3), Action("3")), TASK, 5, ref=EnvRef("t")))
    assert got.status == "terminated"
    assert got.reward == 2.5


async def test_policy_keys_differ_between_attempts_of_one_episode():
    policy = Script(Action("0"), Action("0"))
    for attempt in (0, 1):
        await play(till(), policy, episode_id="same", labels=Labels(attempt=attempt))
    assert len(policy.keys) == 2
    assert all("same" in key for key in policy.keys)


def test_no_code_of_ours_is_named_as_the_place_of_a_fault():
    folders = {Path(folder).name for folder in episode._OURS}
    assert folders == {"env", "policy", "rollout", "sandboxed", "serving", "tools", "file_modules.py"}
    ours = [Path(folder) for folder in episode._OURS if Path(folder).name != "tools"]  # tools are installed there
    assert all(folder.is_file() or (folder / "__init__.py").is_file() for folder in ours)


class Plain(Env):
    """An environment that tells no ending of its own."""

    tasks = Tasks.of(train=[{}])

    def __init__(self, ending=None, *, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.told = ending

    async def areset(self, *, seed=None, options=None):
        self._begin(seed, options)
        return (Message("user", "go"),), {}

    async def astep(self, action):
        self.ending = self.told
        return (), 0.0, action.text == "end", action.text != "end", {}


@pytest.mark.parametrize(
    ("told", "text", "ending"),
    [
        (None, "end", Ending("environment")),
        (None, "on", Ending("limit", "truncated")),
        (Ending("tool"), "end", Ending("tool")),
        (Ending("error", "bad move"), "end", Ending("error", "bad move")),
        (Ending("limit", "patience"), "on", Ending("limit", "patience")),
        (Ending("limit", "patience"), "end", Ending("environment")),  # it does not agree with how the episode ended
        (Ending("answer"), "on", Ending("limit", "truncated")),
    ],
)
async def test_the_ending_is_the_environments_own_where_it_agrees(told, text, ending):
    got = await run_episode(Plain(told), Script(Action(text)), Plain.tasks["train-0"], 0)
    assert got.ending == ending
    assert got.env == EnvRef("Plain")
