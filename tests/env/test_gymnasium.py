"""Gymnasium takes our environments as they are: its checker, its wrappers and both vector environments."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env as check_with_gymnasium
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.vector.utils import create_shared_memory, iterate, read_from_shared_memory, write_to_shared_memory

from agentrl.env.registry import env_ids, make, register
from agentrl.env.spaces import ActionSpace, MessagesSpace, SharedObservations
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.messages import Message
from agentrl.tool_schema import tool

pytestmark = pytest.mark.filterwarnings("error")

# Other tests register environments of their own.
BUNDLED = [id for id in env_ids() if id.startswith("agentrl/")]


@register("test/Echo-v0", max_turns=3)
class Echo(ToolEnv):
    """Answers with as many letters as asked for."""

    tasks = Tasks.of(train=[{"n": 1}], eval=[{"n": 2}])

    def start(self, task):
        return "Begin " + str(int(self.np_random.integers(1000)))

    @tool
    def letters(self, n: int) -> str:
        """Letters."""
        return "x" * n

    def score(self, answer):
        return float(answer == "yes")


class Tight(Echo):
    """With little room in shared memory."""

    observation_space = MessagesSpace(shared_bytes=1024)


class Waiting(Echo):
    """Driven by an event loop."""

    @tool
    async def letters(self, n: int) -> str:
        """Letters."""
        return "x" * n


@pytest.mark.parametrize("id", [*BUNDLED, "test/Echo-v0"])
def test_gymnasiums_checker_has_nothing_to_say(id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_with_gymnasium(make(id))
        check_with_gymnasium(gymnasium.make(id).unwrapped)


def test_an_environment_that_waits_passes_too():
    register("test/Waiting-v0")(Waiting)
    env = make("test/Waiting-v0")
    check_with_gymnasium(env)
    env.close()


def test_make_through_gymnasium_takes_arguments_and_its_spec_survives_json():
    env = gymnasium.make("test/Echo-v0", max_turns=1, render_mode="ansi")
    env.reset(seed=1)
    assert env.step(call("letters", n=2))[3] is True
    assert "train-0" in env.render()
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.limits.max_turns == 1


def test_stock_wrappers():
    inner = gymnasium.wrappers.PassiveEnvChecker(make("test/Echo-v0"))
    env = gymnasium.wrappers.OrderEnforcing(inner)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("yes")
    env = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.wrappers.TimeLimit(env, 2))
    env.reset(seed=1)
    env.step(call("letters", n=1))
    *_, truncated, info = env.step(call("letters", n=1))
    assert truncated is True
    assert (info["episode"]["l"], info["episode"]["r"]) == (2, 0.0)
    env = gymnasium.wrappers.Autoreset(make("test/Echo-v0"))
    first, _ = env.reset(seed=1)
    assert env.step("yes")[2] is True
    second, reward, terminated, _, _ = env.step("ignored")
    assert (reward, terminated) == (0, False)
    assert second[0].content.startswith("Begin")
    assert second != first


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_environments_work_with_their_defaults(mode):
    envs = gymnasium.make_vec("test/Echo-v0", num_envs=2, vectorization_mode=mode)
    alone = [make("test/Echo-v0") for _ in range(2)]
    try:
        observations, infos = envs.reset(seed=5)
        expected = tuple(env.reset(seed=5 + i)[0] for i, env in enumerate(alone))
        assert observations == expected
        assert list(infos["task_id"]) == ["train-0", "train-0"]
        kept = observations
        observations, rewards, terminated, truncated, _ = envs.step([call("letters", n=3), "yes"])
        assert observations == ((Message("tool", "xxx", (), "call_0", "letters"),), ())
        assert kept == expected  # earlier observations are not overwritten
        assert (rewards.tolist(), terminated.tolist(), truncated.tolist()) == ([0.0, 1.0], [False, True], [False] * 2)
        observations, *_ = envs.step(["yes", "ignored: this one begins anew"])
        assert observations[1][0].content.startswith("Begin")
        assert len(envs.action_space.sample()) == 2
        assert envs.observation_space.contains(observations)
    finally:
        envs.close()


@pytest.mark.parametrize("id", BUNDLED)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_every_bundled_environment_is_vectorised(id, mode):
    envs = gymnasium.make_vec(id, num_envs=2, vectorization_mode=mode)
    try:
        envs.action_space.seed(1)
        observations, _ = envs.reset(seed=3)
        assert observations[0] == make(id).reset(seed=3)[0]
        for _ in range(3):
            observations, *_ = envs.step(envs.action_space.sample())
        assert all(envs.single_observation_space.contains(observation) for observation in observations)
    finally:
        envs.close()


def test_observations_of_any_size_up_to_the_room_for_them():
    envs = AsyncVectorEnv([Tight, Tight])
    try:
        envs.reset(seed=1)
        observations, *_ = envs.step([call("letters", n=700), call("letters", n=1)])
        assert [len(observation[0].content) for observation in observations] == [700, 1]
    finally:
        envs.close()


def test_an_observation_that_does_not_fit_says_what_to_set(monkeypatch):
    monkeypatch.setattr(gymnasium.logger, "error", lambda *args: None)
    envs = AsyncVectorEnv([Tight])
    envs.reset(seed=1)
    with pytest.raises(ValueError, match=r"does not fit into the 1024 bytes .*MessagesSpace\(shared_bytes="):
        envs.step([call("letters", n=5000)])
    envs.close(terminate=True)
    without = AsyncVectorEnv([Tight], shared_memory=False)
    without.reset(seed=1)
    assert len(without.step([call("letters", n=5000)])[0][0][0].content) == 5000
    without.close()


def test_different_spaces_of_one_kind_can_be_batched():
    envs = SyncVectorEnv([Echo, Tight], observation_mode="different")
    assert len(envs.reset(seed=1)[0]) == 2
    envs.close()


def test_shared_memory_reads_what_was_written_last():
    space = MessagesSpace(shared_bytes=2048)
    memory = create_shared_memory(space, n=3, ctx=multiprocessing)
    view = read_from_shared_memory(space, memory, n=3)
    assert isinstance(view, SharedObservations)
    assert list(view) == [(), (), ()]
    write_to_shared_memory(space, 1, (Message("user", "é" * 300),), memory)
    write_to_shared_memory(space, 1, (Message("user", "short"),), memory)
    assert view[1] == view[-2] == (Message("user", "short"),)
    assert view[0:2] == ((), (Message("user", "short"),))
    with pytest.raises(IndexError, match="there are 3 environments, got index 3"):
        view[3]


def test_spaces_compare_contain_and_batch():
    assert MessagesSpace() == MessagesSpace(shared_bytes=99)
    assert MessagesSpace() != ActionSpace()
    assert MessagesSpace().contains((Message("user", "a"),))
    assert not MessagesSpace().contains([Message("user", "a")])
    assert not MessagesSpace().contains(({"role": "user"},))
    assert ActionSpace().contains("text")
    assert not ActionSpace().contains(3)
    batched = gymnasium.vector.utils.batch_space(ActionSpace(), 2)
    assert list(iterate(batched, ("a", "b"))) == ["a", "b"]
    with pytest.raises(ValueError, match="shared_bytes must be more than"):
        MessagesSpace(shared_bytes=3)


def test_gymnasium_makes_our_ids_without_an_import_of_ours():
    code = (
        "import sys, gymnasium\n"
        "env = gymnasium.make('agentrl.env.registry:agentrl/Guess-v0')\n"
        "assert 'agentrl/Shop-v0' in gymnasium.registry\n"
        "assert 'agentrl.environments.shop' not in sys.modules, 'imported too early'\n"
        "print(env.reset(seed=1)[1]['task_id'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("train-")
