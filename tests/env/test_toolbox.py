"""Names that an author may use, and the tools of an instance and of an episode."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import pickle

import pytest

from agentrl.env.base import Limits
from agentrl.env.registry import make
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call, tools_of
from agentrl.errors import ToolSchemaError
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.base import Policy
from agentrl.policy.scripted import ScriptedPolicy
from agentrl.rollout.runner import rollout
from agentrl.tool_schema import Tool, tool


def double(n: int) -> int:
    """Twice a number."""
    return 2 * n


async def later(n: int) -> int:
    """A number, after a while."""
    await asyncio.sleep(0)
    return n


def who(self, n: int) -> str:
    """The class that asks."""
    return f"{type(self).__name__} {n}"


class Desk(ToolEnv):
    """A desk with one tool."""

    tasks = Tasks.of(train=[{"tools": ["add"]}, {"tools": ["add", "double"]}, {"tools": ["later"]}])

    def start(self, task):
        return "go"

    @tool
    def add(self, n: int) -> int:
        """One more."""
        return n + 1

    def score(self, answer):
        return 1.0


class PerTask(Desk):
    """Which tools there are depends on the task."""

    extra_tools = (double, later)

    def start(self, task):
        self.use_tools(*task.data["tools"])
        return "go"


def names(env):
    return [schema["function"]["name"] for schema in env.tool_schemas]


def told(env, *calls):
    return [message.content for message in env.step(Action(tool_calls=calls))[0]]


# Names.


class Private(Desk):
    """Uses every private name that the base classes had."""

    def __init__(self):
        super().__init__()
        for name in ("_tools", "_runner", "_drive", "_twin", "_skipped", "_copied", "_waits", "_not_state"):
            setattr(self, name, 0)

    def start(self, task):
        self._turn, self._tokens, self._ending, self._over = 100, 10**9, True, True
        self._components, self._own_info, self._started_s = None, None, None
        return "go"

    def _finish(self):
        raise AssertionError

    _begin = _add_score = _take_reward = _limit_reached = _gather = _put = _answers = _finish


def test_private_names_of_an_author_are_the_authors():
    env = Private()
    env.reset(seed=1)
    observation, _, terminated, truncated, _ = env.step(call("add", n=1))
    assert (observation[0].content, terminated, truncated) == ("2", False, False)
    twin = env.fork()
    assert env.step("done")[1:4] == twin.step("done")[1:4] == (1.0, True, False)
    assert env._turn == 100


@pytest.mark.parametrize("name", ["step", "close", "render", "fork", "reset", "start", "task", "limits", "use_tools"])
def test_a_tool_cannot_stand_in_the_place_of_what_every_environment_has(name):
    def method(self, n: int) -> int:
        return n

    with pytest.raises(ToolSchemaError, match=rf"every environment has something called '{name}'.*name=\"{name}\""):
        type("Taken", (Desk,), {name: tool(method)})


def test_the_model_may_call_a_tool_by_any_name():
    class Named(Desk):
        @tool(name="step")
        def one_step(self, n: int) -> int:
            return n

    env = Named()
    env.reset(seed=0)
    assert told(env, ToolCall("step", {"n": 3})) == ["3"]


@pytest.mark.parametrize("name", ["score", "step", "close", "render", "respond"])
@pytest.mark.parametrize("place", ["init", "start"])
async def test_an_attribute_that_hides_a_method_is_named(name, place):
    class Hides(Desk):
        def __init__(self):
            if place == "init":
                setattr(self, name, 0)

        def start(self, task):
            if place == "start":
                setattr(self, name, 0)
            return "go"

    with pytest.raises(TypeError, match=f"self.{name} of Hides hides the method"):
        await Hides().areset(seed=0)
    with pytest.raises(TypeError, match="close hides the method"):
        type("Hides", (Desk,), {"close": False})


def test_a_constructor_that_forgets_its_base_class():
    class Forgets(Desk):
        def __init__(self, n):
            self.n = n

    env = Forgets(5)
    env.reset(seed=0)
    assert told(env, ToolCall("add", {"n": env.n})) == ["6"]


@pytest.mark.parametrize(("name", "value"), [("tasks", [{"q": 1}]), ("limits", 5), ("rubric", {"right": 1.0})])
def test_plain_values_in_the_place_of_a_class_of_the_contract(name, value):
    with pytest.raises(TypeError, match=rf"Plain.{name} is a {type(value).__name__}: write `{name} = [TLR]"):
        type("Plain", (Desk,), {name: value})


@pytest.mark.parametrize("calls_base", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_a_close_as_in_gymnasium_is_called_once_by_close_and_by_a_rollout(calls_base, waits):
    closed = []

    class Closes(Desk):
        extra_tools = (later,) if waits else ()

        def close(self):
            closed.append("own")
            if calls_base:
                super().close()

    env = Closes()
    env.reset(seed=0)
    env.close()
    assert closed == ["own"]
    rollout(Closes, ScriptedPolicy(["x"]), ["train-0"])
    assert closed == ["own", "own"]


@pytest.mark.parametrize("name", ["reset", "step"])
def test_a_method_that_a_rollout_would_not_call_is_refused(name):
    with pytest.raises(TypeError, match=rf"Own.{name} would not be called by a rollout: write `async def a{name}`"):
        type("Own", (Desk,), {name: lambda self: None})


def test_an_environment_may_be_a_dataclass():
    @dataclasses.dataclass
    class Sized(Desk):
        size: int = 3

        def start(self, task):
            return f"size {self.size}"

    env = Sized(size=4)
    assert env.reset(seed=0)[0][0].content == "size 4"
    assert env.fork().size == 4
    assert len(rollout(lambda: Sized(5), ScriptedPolicy(["x"]))) == 3


# Tools of an instance and of an episode.


def test_extra_tools_may_be_worked_out_by_each_instance():
    class Property(Desk):
        def __init__(self, n):
            self.n = n

        @property
        def extra_tools(self):
            return [double, later][: self.n]

    assert [names(Property(n)) for n in (0, 1, 2)] == [["add"], ["double", "add"], ["double", "later", "add"]]
    env = Property(2)
    env.reset(seed=0)
    assert told(env, ToolCall("later", {"n": 2})) == ["2"]
    env.close()


def test_tools_of_each_task_are_those_the_policy_sees_and_the_record_holds():
    seen = []

    class Shows(Policy):
        async def act(self, messages, tools, *, episode_id, sampling=None):
            seen.append([one["function"]["name"] for one in tools])
            return Action("done")

    groups = rollout(PerTask, Shows(), max_concurrency=1)
    wanted = [["add"], ["add", "double"], ["later"]]
    assert seen == wanted
    records = [group.trajectories[0] for group in groups]
    assert [[one["function"]["name"] for one in record.tools] for record in records] == wanted


def test_a_tool_that_the_episode_does_not_offer_is_not_run_and_one_that_waits_is_awaited():
    env = PerTask()
    env.reset(seed=0, options={"task": "train-0"})
    assert told(env, ToolCall("double", {"n": 2})) == ["Error: there is no tool 'double'. Known: add."]
    env.reset(seed=0, options={"task": "train-2"})
    assert told(env, ToolCall("later", {"n": 2})) == ["2"]
    env.reset(seed=0, options={"task": "train-1"})
    assert told(env, ToolCall("double", {"n": 2})) == ["4"]
    env.close()


def test_an_instance_sets_its_own_extra_tools_at_any_time_before_the_first_turn():
    class Late(Desk):
        def __init__(self, extra):
            super().__init__()
            self.extra_tools = list(extra)

        def start(self, task):
            self.extra_tools.append(Tool.of(who))
            return "go"

    env = Late([double])
    assert names(env) == ["double", "add"]
    env.reset(seed=0)
    assert names(env) == ["double", "who", "add"]
    assert told(env, ToolCall("who", {"n": 1}, "a"), ToolCall("double", {"n": 2}, "b")) == ["Late 1", "4"]
    assert names(Late([])) == ["add"]


def test_mistakes_in_the_choice_of_tools():
    class Unknown(Desk):
        def start(self, task):
            self.use_tools("ad")
            return "go"

    with pytest.raises(ToolSchemaError, match=r"no tool 'ad'\. Did you mean 'add'"):
        Unknown().reset(seed=0)
    env = PerTask()
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="in `start`"):
        env.use_tools("add")
    with pytest.raises(ToolSchemaError, match="two tools named 'add'"):
        type("Twice", (Desk,), {"extra_tools": (Tool.of(double), tool(name="add")(lambda: 1))})
    with pytest.raises(ToolSchemaError, match="a tool is a Tool or a function, got int"):
        type("Number", (Desk,), {"extra_tools": (1,)})


def test_a_fork_has_the_tools_of_its_episode():
    env = PerTask()
    env.reset(seed=0, options={"task": "train-1"})
    twin = env.fork()
    env.reset(seed=0, options={"task": "train-0"})
    assert (names(twin), names(env)) == (["add", "double"], ["add"])
    assert told(twin, ToolCall("double", {"n": 4})) == ["8"]


def test_faults_stay_readable_over_the_episodes_of_an_instance():
    class Breaks(PerTask):
        @tool
        def add(self, n: int) -> int:
            raise KeyError(n)

    env = Breaks()
    env.make_readable({"add"})
    env.reset(seed=0, options={"task": "train-1"})
    assert told(env, ToolCall("add", {"n": 4})) == ["Error: tool 'add' raised KeyError: 4"]
    assert tools_of(env)["add"].faults_are_read


@pytest.mark.parametrize("id", ["agentrl/Shop-v0", "agentrl/Search-v0", "agentrl/LoanDesk-v0", "agentrl/Guess-v0"])
def test_an_instance_can_be_pickled_and_deep_copied_in_the_middle_of_an_episode(id):
    env = make(id, max_turns=5)
    messages, _ = env.reset(seed=3)
    messages = [*messages]
    action = env.oracle(messages)
    env.step(action)
    for twin in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        assert (type(twin), twin.limits, twin.ref, twin.task) == (type(env), Limits(max_turns=5), env.ref, env.task)
        again = env.fork()
        assert twin.step("7")[:4] == again.step("7")[:4]
        assert twin.np_random.random() == again.np_random.random()


def test_pickling_keeps_the_tools_of_an_episode_and_classes_that_came_from_a_file(tmp_path):
    env = PerTask()
    env.reset(seed=0, options={"task": "train-1"})
    assert names(pickle.loads(pickle.dumps(env))) == ["add", "double"]
    file = tmp_path / "own.py"
    file.write_text(
        "from agentrl import ToolEnv\nclass Own(ToolEnv):\n"
        "    def __init__(self, n, *, m=1):\n        self.sum = n + m\n"
        "    def start(self, task):\n        return 'go'\n"
    )
    made = make(f"{file}:Own", n=2)
    packed = pickle.dumps(made)
    assert b"own.py:Own" in packed  # by its file, which another process can find
    assert pickle.loads(packed).sum == 3


# What `start` returns.


def test_start_may_return_openai_messages():
    class Dicts(Desk):
        first = {"role": "user", "content": "a"}  # noqa: RUF012

        def start(self, task):
            return self.first

    env = Dicts()
    assert env.reset(seed=0)[0] == (Message("user", "a"),)
    env.first = [{"role": "system", "content": "s"}, Message("user", "b")]
    assert [m.content for m in env.reset(seed=0)[0]] == ["s", "b"]
    for wrong, words in [(None, "got None"), (5, "got 5"), ([], "no message"), ({"role": "x"}, "role must be")]:
        env.first = wrong
        with pytest.raises((TypeError, ValueError), match=words):
            env.reset(seed=0)
