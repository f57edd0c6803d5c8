"""Training runs with samplers, for `benchmarks/scale_simulation.py`: how fast they are, and what their parts cost."""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from agentrl.distributed.local import LocalWorker, LocalWorkers
from agentrl.distributed.ray_workers import RayWorker, RayWorkers
from agentrl.distributed.shared import Packed, unpacked
from agentrl.learning.learner import LearnerSettings
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.model_setup import ModelConfig, load
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, RunConfig, SamplingConfig, ScaleConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import train
from agentrl.trajectory import Trajectory
from scale_parts import waiting
from scale_parts.simulation import WARM_STEPS, Costs, Plan

_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Shape:
    """A kind of run.

    Attributes:
        wait_s: mean wait of a turn.
        model: that is built.
        max_tokens: of a turn.
    """

    wait_s: float = 0.0
    model: ModelConfig = field(default_factory=lambda: ModelConfig(hidden_size=32, num_layers=1))
    max_tokens: int = 16


GROUPS, EPISODES = 4, 4


def model_of(shape: Shape, folder: Path) -> ModelConfig:
    """A model that looks and answers, most of the time; made in the folder unless it is there."""
    if not (folder / "model").exists():
        warm = LearnerSettings(lr=0.01)
        stage = Supervise({"yes": 1.0}, num_episodes=96, epochs=1, batch_episodes=16, learner=warm)
        run = RunConfig(evaluate_every=0, tensorboard=False)
        config = TrainConfig(EnvConfig(_name()), model=shape.model, stages={"warm": stage}, run=run)
        _in_child(lambda: train(config, folder))
    return ModelConfig(path=str(folder / "model"))


def _name() -> str:
    return f"{Path(waiting.__file__).resolve()}:Waiting"


def measured_run(shape: Shape, model: ModelConfig, plan: Plan, steps: int, seed: int, engine: str) -> dict[str, Any]:
    """Train, in a process of its own. Returns: steps a second after the first ones, and the costs of the parts."""
    scale = ScaleConfig(samplers=plan.workers, engine=engine)  # type: ignore[arg-type]
    stage = Reinforce(
        steps=steps,
        playing=Playing(plan.groups, plan.episodes, max_lag=plan.lag),
        checkpoint_every=10 * steps,
        learner=LearnerSettings(lr=1e-5),
    )
    config = TrainConfig(
        EnvConfig(_name(), kwargs={"wait_s": shape.wait_s}, max_turns=3),
        model=model,
        sampling=SamplingConfig(max_tokens=shape.max_tokens),
        stages={"rl": stage},
        run=RunConfig(
            evaluate_every=0,
            tensorboard=False,
            checkpoint_seconds=0,
            threads=1,
            max_concurrency=plan.workers * plan.slots,
        ),
        scale=scale,
        seed=seed,
    )
    return _in_child(lambda: _measured(config))  # type: ignore[no-any-return]


def _measured(config: TrainConfig) -> dict[str, Any]:
    log: dict[str, list[Any]] = {"pack_s": [], "push_s": [], "driver": []}
    with TemporaryDirectory() as folder, _noted(log):
        run = Path(folder) / "run"
        train(config, run)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        unpack_s = _unpack_s(run / "model")
        episodes = [_seconds(episode) for episode in TrajectoryStore(run / "trajectories.jsonl").read()]
    ends = [line["time_s"] for line in lines]
    parts = [(line["time/sample_s"], line["time/learn_s"]) for line in lines]
    rest = [after - before - sum(part) for before, after, part in zip(ends, ends[1:], parts[1:], strict=False)]
    return {
        "steps_per_s": (len(ends) - WARM_STEPS) / (ends[-1] - ends[WARM_STEPS - 1]),
        "episode_s": [round(seconds, 4) for seconds in episodes[GROUPS * EPISODES :]],
        "learn_s": statistics.median(learn for _, learn in parts[1:]),
        "fixed_s": statistics.median(rest),
        "pack_s": statistics.median(log["pack_s"]) if log["pack_s"] else 0.0,
        "push_s": statistics.median(log["push_s"]) if log["push_s"] else 0.0,
        "unpack_s": unpack_s,
        "message_s": _message_s(log["driver"]),
        "load": os.getloadavg()[0],
    }


@contextmanager
def _noted(log: dict[str, list[Any]]) -> Iterator[None]:
    """Note what the driver spends, and what weights cost the trainer, whoever starts the samplers."""
    main = time.pthread_getcpuclockid(threading.main_thread().ident or 0)
    kept = [(kind, name, getattr(kind, name)) for kind, name in _NOTED]

    def play(kept_play: Any, worker: Any, *given: Any) -> Any:
        log["driver"].append(time.process_time() - time.clock_gettime(main))
        return kept_play(worker, *given)

    def timed(name: str, kept_method: Any, owner: Any, *given: Any) -> Any:
        began = time.perf_counter()
        found = kept_method(owner, *given)
        log[name].append(time.perf_counter() - began)
        return found

    def stand_in(name: str, method: Any) -> Any:
        if name == "play":
            return lambda owner, *given: play(method, owner, *given)
        return lambda owner, *given: timed("pack_s" if name == "weights" else "push_s", method, owner, *given)

    for kind, name, method in kept:
        setattr(kind, name, stand_in(name, method))
    try:
        yield
    finally:
        for kind, name, method in kept:
            setattr(kind, name, method)


_NOTED = [(kind, name) for kind in (LocalWorker, RayWorker) for name in ("play", "take_weights")]
_NOTED += [(kind, "weights") for kind in (LocalWorkers, RayWorkers)]  # type: ignore[list-item]


def _seconds(episode: Trajectory) -> float:
    """How long an episode took on its sampler."""
    return sum(turn.policy_s + turn.env_s for turn in episode.turns)


def _message_s(driver: list[float]) -> float:
    """CPU seconds that the threads of the trainer other than the first spend on a group, start-up left out."""
    skipped = GROUPS * WARM_STEPS
    return (driver[-1] - driver[skipped]) / (len(driver) - 1 - skipped) if len(driver) > skipped + 1 else 0.0


def _unpack_s(folder: Path) -> float:
    """Seconds that a sampler needs to take the weights of a model."""
    model, _ = load(ModelConfig(path=str(folder)), folder, 0)
    parameters = dict(model.named_parameters())
    packed, taken = Packed({name: p.detach() for name, p in parameters.items()}), []
    for _ in range(5):
        began = time.perf_counter()
        with torch.no_grad():
            for name, value in unpacked(packed.fileno()).items():
                parameters[name].copy_(value)
        taken.append(time.perf_counter() - began)
    packed.close()
    return statistics.median(taken)


def costs_of(runs: list[dict[str, Any]]) -> Costs:
    """Costs from runs of one plan: all durations of episodes, medians of the rest."""

    def median(name: str) -> float:
        return statistics.median(run[name] for run in runs)

    names = ("fixed_s", "pack_s", "unpack_s", "push_s", "message_s")
    episodes = tuple(seconds for run in runs for seconds in run["episode_s"])
    found = Costs(episodes, median("learn_s") / GROUPS)
    return replace(found, **{name: max(0.0, median(name)) for name in names})


def _in_child(work: Any) -> Any:
    ours, theirs = _FORK.Pipe(duplex=False)
    child = _FORK.Process(target=lambda: theirs.send(work()))
    child.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit("a run ended with an error, which stands above") from None
    finally:
        child.join()
