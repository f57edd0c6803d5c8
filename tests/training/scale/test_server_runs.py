"""Whole training runs whose turns a server samples: they learn what embedded runs learn, bit for bit."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from agentrl.config import load_config
from agentrl.errors import ConfigError, ModelError
from agentrl.learning.learner import LearnerSettings
from agentrl.policy import token_policy
from agentrl.rollout.store import TrajectoryStore
from agentrl.sampling import turn_seed
from agentrl.training.model_setup import LoRA
from agentrl.training.plan import TrainConfig
from agentrl.training.progress import Progress
from agentrl.training.settings import RunConfig, ScaleConfig
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.train import train
from tests.policy.servers.fake_sglang import FakeSglang
from tests.policy.servers.fake_vllm import FakeVllm
from tests.policy.servers.fakes import FakeServer
from tests.policy.servers.sockets import listening
from tests.serving.conftest import CONFIG as TEACHING

CONFIG = replace(
    TEACHING,
    model=replace(TEACHING.model, max_context=512),
    run=RunConfig(evaluate_every=2, evaluate_tasks=4, tensorboard=False),
)
PLAYED = {
    "rl": Reinforce(steps=3, playing=Playing(prompts_per_step=4, group_size=4), learner=LearnerSettings(lr=1e-3)),
    "after": Evaluate(num_tasks=6),
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that the runs begin with."""
    out = tmp_path_factory.mktemp("taught") / "run"
    train(CONFIG, out)
    return out / "model"


@pytest.fixture(autouse=True)
def small_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_policy, "turn_seed", lambda stream, turn: turn_seed(stream, turn) % 2**31)


def config_of(model: Path, **scale: Any) -> TrainConfig:
    return replace(
        CONFIG,
        model=replace(CONFIG.model, path=str(model)),
        stages=PLAYED,
        scale=ScaleConfig(server_tolerance=1e-3, **scale),
    )


def metrics_of(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("time/", "share/", "speed/", "scale/", "time_s")
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in lines]


def turns_of(run: Path) -> list[Any]:
    found = [
        (t.task.id, t.reward, turn.action.prompt_ids, turn.action.token_ids, turn.action.logprobs, turn.action.versions)
        for t in TrajectoryStore(run / "trajectories.jsonl").read()
        for turn in t.turns
    ]
    return sorted(found, key=repr)


@pytest.mark.parametrize("kind", [FakeVllm, FakeSglang])
def test_a_run_over_a_server_is_the_embedded_run(kind: type[FakeServer], taught: Path, tmp_path: Path) -> None:
    train(config_of(taught), tmp_path / "embedded")
    with listening(kind(taught)) as process:
        train(config_of(taught, server=process.url), tmp_path / "served")
    same_runs(tmp_path / "served", tmp_path / "embedded", taught)
    assert not (tmp_path / "served" / "server_weights").exists()


@pytest.mark.parametrize("lora", ["merged", "swapped"])
def test_a_run_that_trains_adapters_over_a_server(lora: str, taught: Path, tmp_path: Path) -> None:
    server = FakeVllm(taught)
    with listening(server) as process:
        config = config_of(taught, server=process.url, server_lora=lora)
        rl = replace(PLAYED["rl"], steps=2)
        model = replace(config.model, lora=LoRA(rank=2))
        train(replace(config, model=model, stages={"rl": rl}), tmp_path / "served")
    lines = [json.loads(line) for line in (tmp_path / "served" / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["stage"] == "rl"]
    assert [line["version"] for line in trained] == [1, 2]
    assert trained[0]["mismatch/nats"] < 1e-4
    assert all(line["scale/server_difference"] < 1e-3 for line in trained)
    assert bool(server.adapters) == (lora == "swapped")


def test_a_server_gets_the_weights_that_several_ranks_share(taught: Path, tmp_path: Path) -> None:
    stage = Reinforce(steps=2, playing=Playing(prompts_per_step=4, group_size=4), learner=LearnerSettings(lr=3e-3))

    def run(name: str, **scale: Any) -> Path:
        config = replace(config_of(taught, **scale), stages={"rl": stage})
        scaled = replace(config.scale, learners=2, shard=True)
        train(replace(config, scale=scaled), tmp_path / name)
        return tmp_path / name

    embedded = run("embedded")
    with listening(FakeVllm(taught)) as process:
        served = run("served", server=process.url)
    same_runs(served, embedded, taught)


def test_a_server_that_is_killed_changes_nothing(taught: Path, tmp_path: Path) -> None:
    """Between steps its connections close; in mid-step it begins again while turns are sampled."""
    train(config_of(taught), tmp_path / "embedded")
    server, answered = FakeVllm(taught), itertools.count()
    server.faults.edit = lambda answer: server.start() if next(answered) in (20, 70) else None
    with listening(server) as process:

        def kill(progress: Progress) -> None:
            if progress.stage == "rl" and progress.step == 2:
                process.begin_again()

        train(config_of(taught, server=process.url), tmp_path / "served", on_progress=kill)
    same_runs(tmp_path / "served", tmp_path / "embedded", taught)
    lines = [json.loads(line) for line in (tmp_path / "served" / "metrics.jsonl").read_text().splitlines()]
    assert max(line.get("scale/server_losses", 0) for line in lines) == 2


def test_a_run_ends_where_a_server_keeps_its_output_head(taught: Path, tmp_path: Path) -> None:
    server = FakeVllm(taught)
    server.faults.stale_head = True
    with listening(server) as process, pytest.raises(ModelError, match="does not compute with the weights") as caught:
        train(config_of(taught, server=process.url), tmp_path / "served")
    named = re.search(r"with (\S+) as its model", str(caught.value))
    assert named is not None
    assert (Path(named.group(1)) / "model.safetensors").is_file()


def test_a_server_that_is_not_there_is_noticed_before_the_run_begins(taught: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"http://localhost:9 cannot be reached.*correct scale.server"):
        train(config_of(taught, server="http://localhost:9"), tmp_path / "served")
    assert not (tmp_path / "served").exists()


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ({"server": "localhost:8000"}, "is not the address of a server"),
        ({"server": ("http://localhost:1", "http://10.0.0.7:8000")}, "set scale.server_folder"),
    ],
)
def test_settings_that_cannot_work_are_refused(taught: Path, tmp_path: Path, scale: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train(config_of(taught, **scale), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_servers_cannot_give_is_refused(taught: Path, tmp_path: Path) -> None:
    served = config_of(taught, server="http://localhost:8000")
    reading = replace(served, stages={"after": Evaluate(num_tasks=6, measures=("confidence",))})
    with pytest.raises(ConfigError, match=r"stages.after reads how sure the model is"):
        train(reading, tmp_path / "run")


@pytest.mark.parametrize("given", ["http://localhost:1", '["http://localhost:1", "http://localhost:2"]'])
def test_the_command_line_names_servers(given: str) -> None:
    config = load_config(TrainConfig, None, ["env.id=agentrl/Shop-v0", f"scale.server={given}"])
    found = config.scale.servers(Path("run"))
    assert found is not None
    assert found.urls[0] == "http://localhost:1"
    assert load_config(TrainConfig, None, ["env.id=agentrl/Shop-v0"]).fingerprint() == config.fingerprint()


def same_runs(served: Path, embedded: Path, taught: Path) -> None:
    begun = load_file(taught / "model.safetensors")
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (embedded, served))
    assert ours.keys() == theirs.keys()
    assert any((ours[name] != begun[name]).any() for name in ours)  # it did learn
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert turns_of(served) == turns_of(embedded)
    assert metrics_of(served) == metrics_of(embedded)
