"""State: an episode can be saved, loaded and forked at any turn. Also limits and random streams."""

from __future__ import annotations

import pickle
import sqlite3
import threading

import gymnasium
import numpy as np
import pytest

from agentrl.env.base import Env, Limits
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import TaskError
from agentrl.messages import Action, Message
from agentrl.tool_schema import tool
from agentrl.trajectory import Ending


class Database(sqlite3.Connection):
    """Closes itself when it is dropped, as these tests drop their environments."""

    def __del__(self) -> None:
        self.close()


class Line:
    """A helper object that knows its environment."""

    def __init__(self, env: Shop) -> None:
        self.env = env


class Shop(ToolEnv):
    """An episode with a database, chance, and an object that points back."""

    tasks = Tasks.of(train=[{"n": 1}, {"n": 2}], eval=[{"n": 3}])
    limits = Limits(max_turns=8)
    not_state = ("db",)

    def start(self, task):
        self.db = sqlite3.connect(":memory:", factory=Database)
        self.db.execute("create table log (n integer)")
        self.line = Line(self)
        return "Draw."

    @tool
    def draw(self) -> list[int]:
        """Draw a number and store it."""
        self.line.env.db.execute("insert into log values (?)", (int(self.np_random.integers(10**6)),))
        return [n for (n,) in self.db.execute("select n from log")]

    def score(self, answer):
        return float(answer == "done")

    def save_extra(self):
        return self.db.serialize() if hasattr(self, "db") else None

    def load_extra(self, extra):
        if extra is not None:
            self.db = sqlite3.connect(":memory:", factory=Database)
            self.db.deserialize(extra)


SCRIPT = [call("draw")] * 4 + [Action("done")]


@pytest.mark.parametrize("turn", range(5))
def test_a_fork_at_any_turn_goes_on_identically_and_apart(turn):
    env = Shop()
    env.reset(seed=11)
    for action in SCRIPT[:turn]:
        env.step(action)
    twin = env.fork()
    tail = [twin.step(action) for action in SCRIPT[turn:]]
    assert [env.step(action) for action in SCRIPT[turn:]] == tail
    assert twin.line.env is twin
    assert env.line.env is env


def test_a_state_survives_pickle_and_can_be_used_twice():
    env = Shop()
    env.reset(seed=11)
    env.step(call("draw"))
    state = pickle.loads(pickle.dumps(env.get_state()))
    ahead = [env.step(action) for action in SCRIPT[1:]]
    for _ in range(2):
        other = Shop()
        other.reset(seed=5)
        other.leftover = "of another episode"
        other.set_state(state)
        assert not hasattr(other, "leftover")
        assert [other.step(action) for action in SCRIPT[1:]] == ahead


def test_the_wall_clock_goes_on_in_a_fork():
    env = Shop()
    env.limits = Limits(max_turns=None, max_wall_s=1000.0)
    env.reset(seed=1)
    env._ToolEnv__started_s -= 999.0
    twin = env.fork()
    assert twin.limits == env.limits
    assert twin.step(call("draw"))[3] is False
    env._ToolEnv__started_s -= 2.0
    twin = env.fork()
    assert twin.step(call("draw"))[3]
    assert twin.ending == Ending("limit", "max_wall_s")


def test_a_fork_before_reset_is_a_fresh_instance():
    twin = Shop().fork()
    with pytest.raises(RuntimeError, match="call reset before step"):
        twin.step("done")
    assert twin.reset(seed=1)[0] == (Message("user", "Draw."),)


def test_what_cannot_be_copied_is_named():
    env = Shop()
    env.reset(seed=1)
    env.guard = threading.Lock()
    with pytest.raises(TypeError, match=r"Shop.guard cannot be copied .*list it in `not_state`"):
        env.get_state()


def test_a_fork_keeps_constructor_arguments():
    class Sized(Shop):
        def __init__(self, size, *, deep=False, render_mode=None):
            super().__init__(render_mode=render_mode)
            self.size, self.deep = size, deep

    env = Sized(3, deep=True, render_mode="ansi")
    env.reset(seed=1)
    twin = env.fork()
    assert (twin.size, twin.deep, twin.render_mode) == (3, True, "ansi")


def test_the_task_is_chosen_by_task_id_or_split():
    env = Shop()
    assert env.reset(seed=1, options={"split": "eval"})[1] == {"task_id": "eval-0"}
    assert env.reset(seed=1, options={"task": "train-1"})[1] == {"task_id": "train-1"}
    assert env.reset(seed=1, options={"task": Shop.tasks["eval-0"]})[1] == {"task_id": "eval-0"}
    drawn = {env.reset(seed=seed)[1]["task_id"] for seed in range(20)}
    assert drawn == {"train-0", "train-1"}
    with pytest.raises(TaskError, match=r"no split 'evil'. Did you mean 'eval'"):
        env.reset(options={"split": "evil"})
    with pytest.raises(TaskError, match="no task 'train-7'"):
        env.reset(options={"task": "train-7"})


def test_instances_share_no_random_stream():
    one, other = Shop(), Shop()
    one.action_space.seed(3)
    expected = [one.action_space.sample() for _ in range(5)]
    one.action_space.seed(3)
    other.action_space.seed(4)
    got = []
    for _ in range(5):
        got.append(one.action_space.sample())
        other.action_space.sample()
    assert got == expected
    assert one.action_space is not other.action_space


def test_an_environment_without_areset_says_what_to_write():
    with pytest.raises(NotImplementedError, match="Bare must implement areset"):
        type("Bare", (Env,), {})().reset()


class Dice(Env):
    """Draws when it is stepped; nothing before."""

    tasks = Tasks.of(train=[{"n": 1}])

    async def areset(self, *, seed=None, options=None):
        self._begin(seed, {"task": self.tasks.split("train")[0]})
        return (Message("user", "Roll."),), {}

    async def astep(self, action):
        rolled = str(int(self.np_random.integers(10**9)))
        return (Message("user", rolled),), 0.0, False, False, {}

    def rolls(self, count: int) -> list[str]:
        return [self.step("roll")[0][0].content for _ in range(count)]


def test_a_generator_made_at_its_first_use_is_gymnasiums():
    env = Dice()
    env.reset(seed=11)
    generator, seed = gymnasium.utils.seeding.np_random(11)
    assert env.np_random_seed == seed == 11
    assert env.rolls(3) == [str(int(generator.integers(10**9))) for _ in range(3)]


def test_a_seed_not_drawn_from_yet_survives_saving_and_forking():
    env = Dice()
    env.reset(seed=11)
    twin, state = env.fork(), env.get_state()
    expected = env.rolls(3)
    assert twin.rolls(3) == expected
    env.reset(seed=12)
    assert env.rolls(3) != expected
    env.set_state(state)
    assert env.rolls(3) == expected


def test_reset_without_seed_goes_on_with_the_stream_and_a_given_generator_stays():
    env = Dice()
    env.reset(seed=11)
    first = env.rolls(2)
    env.reset()
    env_again = Dice()
    env_again.reset(seed=11)
    assert [*first, *env.rolls(2)] == env_again.rolls(4)
    env.reset(seed=5)
    env.np_random = np.random.default_rng(7)
    assert env.rolls(1) == [str(int(np.random.default_rng(7).integers(10**9)))]
    assert env.np_random_seed == -1


@pytest.mark.parametrize("seed", [-1, "x"])
def test_a_wrong_seed_is_refused_at_reset(seed):
    with pytest.raises(gymnasium.error.Error):
        Dice().reset(seed=seed)


async def test_the_native_face_saves_and_forks_as_the_synchronous_one():
    class Counter(Env):
        """Counts."""

        async def areset(self, *, seed=None, options=None):
            self._begin(seed, options)
            self.count = [0]
            return (Message("user", "go"),), {}

        async def astep(self, action):
            self.count[0] += 1
            return (), float(self.count[0]), False, False, {}

    env = Counter()
    await env.areset(seed=1)
    await env.astep("a")
    state, twin = await env.aget_state(), await env.afork()
    await env.astep("a")
    other = Counter()
    await other.aset_state(state)
    assert (env.count, twin.count, other.count) == ([2], [1], [1])
