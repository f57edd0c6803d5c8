"""TextArena and MiniWoB++ against recordings of the packages themselves: what is shown, when it ends, and the verdict.

`goldens/record.py` makes the recordings where the packages are installed; here stand-ins play them back.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentrl.adapters import miniwob, textarena
from agentrl.adapters.lent import Machines
from agentrl.env.registry import make
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import call
from agentrl.trajectory import Task
from tests.adapters.fakes import forget, install

GOLDENS = Path(__file__).parent / "goldens"


def recorded(suite: str) -> list:
    found = json.loads((GOLDENS / f"{suite}.json").read_text(encoding="utf-8"))
    return [pytest.param(one, id=f"{one['task']}-{one['how']}") for one in found]


class Game:
    """A game that answers with what was recorded of it."""

    def __init__(self, golden: dict) -> None:
        self.golden, self.at = golden, 0
        self.state = SimpleNamespace(rewards=None, game_state={})

    def get_observation(self):
        return 0, self.golden["steps"][self.at]["seen"]

    def step(self, text):
        self.at += 1
        step = self.golden["steps"][self.at]
        assert text == step["did"], "the adapter changed the move"
        if step["over"]:
            self.state.rewards = {0: self.golden["reward"]}
        return step["over"], {}


@pytest.mark.parametrize("golden", recorded("textarena"))
def test_a_game_of_textarena_is_shown_and_scored_as_the_package_has_it(golden, tmp_path, monkeypatch):
    games = f"ENV_REGISTRY = {{{golden['game']!r}: None}}"
    install(tmp_path, monkeypatch, "textarena", {"envs/registration.py": games})
    forget("textarena", textarena)
    monkeypatch.setattr(textarena, "_opened", lambda game, seed: Game(golden))
    task = Task(golden["task"], "eval", {"game": golden["game"], "seed": 1})
    monkeypatch.setattr(textarena, "_tasks", lambda *given: Tasks.of(eval=[dict(task.data)]))
    env = make("agentrl.adapters.textarena:TextArena", game=golden["game"])
    observation, _ = env.reset(seed=0, options={"task": task})
    assert observation[-1].content == golden["steps"][0]["seen"]
    for step in golden["steps"][1:]:
        observation, reward, terminated, truncated, _ = env.step(step["did"])
        assert terminated == step["over"]
        assert not truncated
        if not step["over"]:
            assert observation[0].content == step["seen"]
    assert env.unwrapped.score(None) == max(golden["reward"] or 0.0, 0.0)
    if golden["steps"][-1].get("over"):
        assert reward == max(golden["reward"], 0.0)
    forget("textarena", textarena)


class RecordedBrowser:
    """A browser that shows what was recorded of a page."""

    def __init__(self, golden: dict) -> None:
        self.golden, self.at = golden, 0

    def opened(self, page, seed):
        assert page == self.golden["page"]
        return self.golden["steps"][0]["seen"]

    def did(self, kind, element, more):
        self.at += 1
        step = self.golden["steps"][self.at]
        assert (kind, element, dict(more)) == tuple(step["did"][name] for name in ("kind", "element", "more"))
        return step["seen"], step["over"], {"raw_reward": step["raw_reward"]}

    def close(self):
        pass


@pytest.mark.parametrize("golden", recorded("miniwob"))
async def test_a_page_of_miniwob_is_acted_on_and_scored_as_the_package_has_it(golden, tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "miniwob", {"action.py": ""})
    machines = Machines(lambda: RecordedBrowser(golden), most=1)
    monkeypatch.setattr(miniwob.MiniWoB, "machines", machines)
    env = make("agentrl.adapters.miniwob:MiniWoB", page=golden["page"], train=0, held_out=1)
    observation, _ = await env.areset(seed=0, options={"task": env.tasks.split("eval")[0]})
    assert observation[-1].content.startswith(golden["steps"][0]["seen"]["utterance"])
    over, reward = False, 0.0
    for step in golden["steps"][1:]:
        did = step["did"]
        _, reward, over, _, _ = await env.astep(call(did["tool"], element=did["element"], **did["more"]))
        assert over == step["over"]
    if not over:
        _, reward, over, _, _ = await env.astep("I am done.")
    assert over
    assert reward == max(golden["reward"], 0.0)
    await env.aclose()
    machines.close()
