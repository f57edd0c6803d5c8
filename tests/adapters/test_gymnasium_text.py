"""Any Gymnasium environment in text: Gymnasium's own frozen lake, and one whose actions are text."""

from __future__ import annotations

import gymnasium
import pytest
from gymnasium.spaces import Text

from agentrl.adapters.gymnasium_text import GymnasiumText
from agentrl.bench.evaluate import aevaluate
from agentrl.env.registry import make, reference
from agentrl.errors import EnvNotFound
from agentrl.policy.scripted import NullPolicy, OraclePolicy
from agentrl.registry import names_only

ID = "agentrl.adapters.gymnasium_text:GymnasiumText"
LAKE = {"env_kwargs": {"is_slippery": False}, "actions": ["left", "down", "right", "up"], "held_out": 5}
SOLVER = '''
from collections import deque

def solve(env):
    """The first step of a shortest way over Gymnasium's own table of moves."""
    table, start = env.unwrapped.P, int(env.unwrapped.s)
    queue, seen = deque([(start, None)]), {start}
    while queue:
        here, first = queue.popleft()
        for action, ((_, there, reward, over),) in table[here].items():
            if reward > 0:
                return action if first is None else first
            if not over and there not in seen:
                seen.add(there)
                queue.append((there, action if first is None else first))
'''


class Echo(gymnasium.Env):
    """Pays for repeating the word."""

    observation_space = action_space = Text(10)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.word = str(self.np_random.choice(["tea", "milk"]))
        return self.word, {}

    def step(self, action):
        return self.word, float(action == self.word), action == self.word, False, {}


gymnasium.register(id="test/EchoOfWords-v0", entry_point=Echo)


@pytest.fixture
def solver(tmp_path):
    path = tmp_path / "lake.py"
    path.write_text(SOLVER)
    return f"{path}:solve"


async def test_the_solver_wins_and_doing_nothing_does_not(solver):
    ref = reference(ID, solver=solver, **LAKE)
    tasks = make(ref).tasks.split("eval")
    assert (await aevaluate(OraclePolicy(), ref, tasks)).outcomes == {task.id: [1.0] for task in tasks}
    assert (await aevaluate(NullPolicy(), ref, tasks)).mean == 0.0


def test_actions_are_names_or_numbers_and_others_are_answered():
    env = make(ID, **LAKE)
    first = env.reset(seed=1, options={"split": "eval"})[0][0].content
    assert "Answer with left, down, right, up." in first
    assert "SFFF" in first.replace("\x1b[41mS\x1b[0m", "S")
    observation, reward, terminated, _, _ = env.step("fly")
    assert (observation[0].content, reward, terminated) == ("Answer with left, down, right, up.", 0.0, False)
    assert "(Down)" in env.step("Down.")[0][0].content
    numbers = make(ID, held_out=1)
    assert "Answer with a number from 0 to 3." in numbers.reset(seed=1)[0][0].content
    assert numbers.step("7")[0][0].content == "Answer with a number from 0 to 3."


def test_episodes_repeat_share_nothing_and_fork():
    one, other = make(ID, id="Taxi-v4"), make(ID, id="Taxi-v4")
    task = one.tasks.split("eval")[0]
    assert one.reset(seed=1, options={"task": task})[0] == other.reset(seed=2, options={"task": task})[0]
    seen = [one.step(action) for action in "011230"]
    assert [other.step(action) for action in "011230"] == seen
    twin = one.fork()
    here = [twin.step(action) for action in "022"]
    assert [one.step(action) for action in "022"] == here
    assert len({step[0][0].content for step in [*seen, *here]}) > 3


def test_a_space_of_text_takes_the_answer_as_it_is():
    env = make(ID, id="test/EchoOfWords-v0")
    word = env.reset(seed=1)[0][0].content
    assert env.step("x" * 20)[0][0].content == "That is no action here."
    _, reward, terminated, _, info = env.step(word)
    assert (reward, terminated, info["success"]) == (1.0, True, True)


def test_bad_input_is_told():
    with pytest.raises(EnvNotFound, match="'nowhere/None-v0': Gymnasium does not find it"):
        make(ID, id="nowhere/None-v0")
    with pytest.raises(ValueError, match="2 names were given"):
        make(ID, actions=["left", "right"]).reset(seed=0)


def test_a_record_does_not_choose_a_module_for_gymnasium_to_import(tmp_path, monkeypatch):
    (tmp_path / "planted_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with names_only(advice="Trust it."), pytest.raises(EnvNotFound, match=r"names code.*Trust it"):
        GymnasiumText(id="planted_module:Any-v0")
