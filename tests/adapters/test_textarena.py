"""TextArena over a small stand-in for the package: a task is one game, and no game is in both splits."""

from __future__ import annotations

import pytest

from agentrl.adapters import textarena
from agentrl.env.registry import make
from tests.adapters.fakes import forget, install

ID = "agentrl.adapters.textarena:TextArena"
FILES = {
    "core.py": """
        import random
        from types import SimpleNamespace
        class Guess:
            most = 6
            def reset(self, num_players, seed):
                self.state = SimpleNamespace(game_state={"game_number": random.randint(1, self.most)}, rewards=None)
            def get_observation(self):
                return 0, "Guess."
            def step(self, text):
                if text == "odd":
                    raise UnboundLocalError("player_guess")
                right = text == f"[{self.state.game_state['game_number']}]"
                self.state.rewards = {0: 1.0 if right else -1.0}
                return True, {}
        class Fixed(Guess):
            most = 1
        """,
    "envs/registration.py": "ENV_REGISTRY = {'GuessTheNumber-v0': None, 'Fixed-v0': None}",
}


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "textarena", FILES)
    (tmp_path / "textarena" / "__init__.py").write_text(
        "from textarena.core import Fixed, Guess\n"
        "def make(game):\n    return {'GuessTheNumber-v0': Guess, 'Fixed-v0': Fixed}[game]()\n"
    )
    forget("textarena", textarena)
    yield
    forget("textarena", textarena)


def test_a_task_is_one_game_for_every_seed_of_an_episode():
    env = make(ID, game="GuessTheNumber-v0")
    for task in env.tasks.split("eval"):
        secrets = set()
        for seed in range(5):
            env.reset(seed=seed, options={"task": task})
            secrets.add(env.game.state.game_state["game_number"])
            assert env.step(env.oracle(()))[1] == 1.0
        assert len(secrets) == 1


def test_a_move_on_which_the_game_raises_loses_it():
    env = make(ID, game="GuessTheNumber-v0")
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step("odd")
    assert (reward, terminated, info["game_raised"]) == (0.0, True, "UnboundLocalError: player_guess")


def test_no_game_starts_alike_in_both_splits_and_a_game_without_chance_is_held_out():
    env = make(ID, game="GuessTheNumber-v0", train=20, held_out=10)
    secrets = {}
    for split in ("train", "eval"):
        for task in env.tasks.split(split):
            env.reset(seed=0, options={"task": task})
            secrets.setdefault(split, []).append(env.game.state.game_state["game_number"])
    assert sorted([*secrets["train"], *secrets["eval"]]) == [1, 2, 3, 4, 5, 6]
    fixed = make(ID, game="Fixed-v0", train=20, held_out=10)
    assert len(fixed.tasks.split("eval")) == 1
