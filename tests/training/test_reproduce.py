"""`agentrl reproduce`: every recorded token comes again with the same bits, and a changed one is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from agentrl.bench.result import BenchConfig
from agentrl.bench.runner import run_bench
from agentrl.cli import main
from agentrl.config import dump_config
from agentrl.errors import ConfigError, StoreError
from agentrl.policy.base import SamplingParams
from agentrl.policy.by_name import PolicySetup
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.model_setup import ModelConfig
from agentrl.training.reproduce import NO_WEIGHTS, FirstDifference, reproduce
from agentrl.training.settings import SamplingConfig, ScaleConfig
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import train
from tests.distributed.conftest import importable_tests
from tests.training.stages.conftest import CONFIG, undecided
from tests.training.stages.test_forks import FORKED, TWICE

__all__ = ["importable_tests", "undecided"]
COPY = Supervise({"yes": 1.0}, num_episodes=40, epochs=1, batch_episodes=8)
RL = Reinforce(steps=3, playing=Playing(prompts_per_step=2, group_size=4), checkpoint_every=1)
PLAN = replace(CONFIG, stages={"copy": COPY, "before": Evaluate(), "rl": RL, "after": Evaluate()})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce") / "run"
    train(PLAN, folder)
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_the_last_evaluation_of_a_run_is_bit_equal(run: Path) -> None:
    found = reproduce(run, stage="after")
    recorded = list(TrajectoryStore(run / "trajectories.jsonl").read(stage="after"))
    assert (found.equal, found.differing, dict(found.left_out)) == (len(recorded), [], {})
    assert found.tokens == sum(t.num_sampled_tokens for t in recorded) > 0
    assert found.exact
    assert found.ok


def test_training_episodes_are_sampled_again_where_the_run_keeps_their_weights(run: Path, tmp_path: Path) -> None:
    assert dict(reproduce(run, stage="rl").left_out) == {NO_WEIGHTS: 24}
    train(replace(PLAN, run=replace(CONFIG.run, keep_checkpoints=20)), tmp_path / "run")
    found = reproduce(tmp_path / "run", stage="rl")
    assert (found.equal, found.differing, dict(found.left_out)) == (24, [], {})
    assert reproduce(tmp_path / "run", stage="rl", episodes=3).equal == 3


TWO = ScaleConfig(samplers=2)
HOT = SamplingConfig(temperature=2.5, max_tokens=6)
RL_ALONE = {"stages": {"rl": RL}}
FORKS = {"stages": {"rl": replace(FORKED, steps=2, checkpoint_every=1)}, **TWICE}


@pytest.mark.parametrize(
    ("changes", "forked"),
    [
        (RL_ALONE | {"scale": TWO}, 0),
        (RL_ALONE | {"sampling": HOT}, 0),
        (FORKS, 2 * 24),
        (FORKS | {"scale": TWO}, 2 * 24),
    ],
    ids=["samplers", "temperature 2.5", "forks", "forks on samplers"],
)
def test_all_episodes_of_a_run_are_bit_equal(
    changes: dict[str, Any], forked: int, undecided: ModelConfig, tmp_path: Path
) -> None:
    run = replace(CONFIG.run, keep_checkpoints=20)
    train(replace(CONFIG, model=undecided, run=run, **changes), tmp_path / "run")
    recorded = list(TrajectoryStore(tmp_path / "run" / "trajectories.jsonl"))
    assert sum(t.fork is not None for t in recorded) == forked
    found = reproduce(tmp_path / "run")
    assert (found.equal, found.differing, dict(found.left_out)) == (len(recorded), [], {})
    assert found.exact


def test_torch_has_the_threads_of_the_processes_that_sampled(copy: Path) -> None:
    (copy / "config.toml").write_text(dump_config(replace(PLAN, scale=ScaleConfig(samplers=1, threads=2))))
    seen: list[int] = []
    found = reproduce(copy, stage="after", episodes=1, on_episode=lambda count: seen.append(torch.get_num_threads()))
    assert seen == [2]
    assert torch.get_num_threads() == 1
    assert found.changes == []


def test_a_changed_token_is_named(copy: Path) -> None:
    store = copy / "trajectories.jsonl"
    lines = [json.loads(line) for line in store.read_text().splitlines()]
    changed = next(record for record in lines if record["labels"]["stage"] == "after")
    action = changed["turns"][0]["action"]
    action["logprobs"][-1] -= 1e-7
    store.write_text("".join(json.dumps(record) + "\n" for record in lines))
    result = CliRunner().invoke(main, ["reproduce", str(copy), "--stage", "after", "--json"])
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    (difference,) = told["differing"]
    assert (difference["episode_id"], difference["turn"]) == (changed["episode_id"], 0)
    assert difference["token"] == len(action["logprobs"]) - 1
    assert repr(action["logprobs"][-1]) in difference["recorded"]


def test_changed_packages_are_named_where_something_differs(copy: Path) -> None:
    summary = json.loads((copy / "summary.json").read_text())
    now = summary["packages"]["torch"]
    summary["packages"]["torch"] = "1.0"
    (copy / "summary.json").write_text(json.dumps(summary))
    found = reproduce(copy, stage="after")
    assert found.changes == [f"torch 1.0, now {now}"]
    assert "torch 1.0" not in str(found)
    assert "changed since then: torch 1.0" in str(replace(found, differing=[FirstDifference("e", 0, 0, "a", "b")]))


def test_a_benchmark_of_a_local_model(run: Path, tmp_path: Path) -> None:
    settings = BenchConfig(num_tasks=4, trials=3, sampling=SamplingParams(max_tokens=5, temperature=1.3))
    run_bench("test/Agree-v0", f"local:{run / 'model'}", config=settings, out=tmp_path / "bench")
    found = reproduce(tmp_path / "bench")
    assert (found.equal, found.differing) == (12, [])

    other = Path(shutil.copytree(run / "model", tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if name.endswith("down_proj.weight"))
    save_file({**weights, name: weights[name] * 1.001}, other / "model.safetensors", metadata={"format": "pt"})
    found = reproduce(tmp_path / "bench", model=other)
    assert len(found.differing) == 12
    assert found.changes == [f"the files in {other}"]
    assert "changed since then" in str(found)


def test_a_benchmark_is_sampled_as_it_was_and_what_changed_since_then_is_named(run: Path, tmp_path: Path) -> None:
    setup = PolicySetup(local={"exact": False})
    run_bench("test/Agree-v0", f"local:{run / 'model'}", num_tasks=2, setup=setup, out=tmp_path / "bench")
    assert not reproduce(tmp_path / "bench", episodes=1).exact
    summary = json.loads((tmp_path / "bench" / "summary.json").read_text())
    summary["versions"]["torch"], summary["provenance"]["machine"]["processor"] = "1.0", "abacus"
    (tmp_path / "bench" / "summary.json").write_text(json.dumps(summary))
    changes = reproduce(tmp_path / "bench", episodes=1).changes
    assert [change.partition(", now")[0] for change in changes] == ["torch 1.0", "processor abacus"]


def test_a_stage_without_episodes_and_a_model_for_a_run_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no sampled episodes of the stage 'later': give another"):
        reproduce(run, stage="later")
    with pytest.raises(ConfigError, match="--model goes with benchmarks"):
        reproduce(run, model=tmp_path)


def test_what_cannot_be_sampled_again_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="give the folder"):
        reproduce(tmp_path)
    result = CliRunner().invoke(main, ["bench", "agentrl/Guess-v0", "--tasks", "2", "--out", str(tmp_path / "oracle")])
    assert result.exit_code == 0, result.output
    with pytest.raises(ConfigError, match="--model"):
        reproduce(tmp_path / "oracle")
