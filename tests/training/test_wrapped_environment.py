"""A run over an environment with Gymnasium's wrappers around it, whose tools depend on the task."""

from __future__ import annotations

from pathlib import Path

from agentrl.rollout.store import TrajectoryStore
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, RunConfig, SamplingConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import train

FILE = """
from gymnasium.wrappers import TransformReward
from agentrl import Tasks, ToolEnv, call

def red() -> str:
    '''Says red.'''
    return "red"

def blue() -> str:
    '''Says blue.'''
    return "blue"

class Colours(ToolEnv):
    tasks = Tasks.generate(
        lambda rng: {"tool": ["red", "blue"][int(rng.integers(2))], "i": int(rng.integers(10**6))}, train=16, eval=8
    )
    extra_tools = (red, blue)
    def start(self, task):
        self.use_tools(task.data["tool"])
        return "Say the colour."
    def score(self, answer):
        return float(answer == self.task.data["tool"])
    def oracle(self, messages):
        last = messages[-1]
        return last.content if last.role == "tool" else call(self.task.data["tool"])

def wrapped():
    return TransformReward(Colours(), lambda reward: 0.5 + reward / 2)
"""


def test_a_wrapped_environment_whose_tools_depend_on_the_task_is_trained_on(tmp_path: Path) -> None:
    (tmp_path / "colours.py").write_text(FILE)
    reference = f"{tmp_path / 'colours.py'}:wrapped"
    config = TrainConfig(
        env=EnvConfig(reference),
        model=ModelConfig(hidden_size=32, num_layers=1),
        sampling=SamplingConfig(max_tokens=8),
        stages={
            "warm_start": Supervise({"oracle": 1.0}, num_episodes=8, epochs=1),
            "rl": Reinforce(steps=1, playing=Playing(prompts_per_step=1, group_size=2)),
        },
        run=RunConfig(evaluate_every=0, tensorboard=False),
    )
    train(config, tmp_path / "run")
    episodes = list(TrajectoryStore(tmp_path / "run" / "trajectories.jsonl"))
    played = [one for one in episodes if one.labels.stage == "rl"]
    assert len(played) == 2
    for one in played:
        assert one.env.id == reference
        assert [tool["function"]["name"] for tool in one.tools] == [one.task.data["tool"]]
        assert one.reward in (0.0, 0.5, 1.0)
