"""Recorded episodes sampled again from the recorded weights, and compared bit by bit.

Owns which weights an episode was sampled from, and the comparison. What the environment did is executed again by
`agentrl.rollout.replay`.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from agentrl.bench.folder import SUMMARY
from agentrl.bench.identity import files_fingerprint
from agentrl.errors import ConfigError, StoreError
from agentrl.messages import Action
from agentrl.policy.by_name import parse_spec
from agentrl.policy.local import LocalPolicy
from agentrl.rollout.store import TrajectoryStore
from agentrl.sampling import turn_seed
from agentrl.training import checkpoint, model_setup
from agentrl.training.files.provenance import machine, packages
from agentrl.training.folder import is_run
from agentrl.training.plan import TrainConfig
from agentrl.training.train import open_run
from agentrl.trajectory import Trajectory

_AT_ONCE = 64
_MADE_WITH = ("torch", "transformers", "numpy")
_RUNS_ON = ("processor", "architecture", "torch_threads", "device", "gpu")
_OPTIONS = ("chat_format", "chat_template", "max_context", "exact")
NO_SAMPLING = "were not sampled by a local model, or by a version that did not record how"
NO_WEIGHTS = "were sampled from weights that the run no longer keeps"
MIXED = "were sampled while the weights changed"


@dataclass(frozen=True)
class FirstDifference:
    """The first token of an episode that is another one, or has other bits.

    Attributes:
        turn, token: where, from 0.
        recorded, again: id and log-probability, as text.
    """

    episode_id: str
    turn: int
    token: int
    recorded: str
    again: str

    def __str__(self) -> str:
        return f"{self.episode_id}: turn {self.turn}, token {self.token}: recorded {self.recorded}, now {self.again}"


@dataclass
class Reproduction:
    """What sampling again found.

    Attributes:
        exact: whether the sampler is made to give the same bits.
        equal: episodes that are the same, bit for bit.
        tokens: sampled tokens of those.
        differing: the first difference of each of the others.
        left_out: why -> number of episodes that were not sampled again.
        changes: what is not as it was when the episodes were recorded.
    """

    exact: bool = True
    equal: int = 0
    tokens: int = 0
    differing: list[FirstDifference] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    changes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether something was sampled again, and all of it the same."""
        return self.equal > 0 and not self.differing

    def __str__(self) -> str:
        total = self.equal + len(self.differing)
        lines = [f"{self.equal} of {total} episodes are bit-equal ({self.tokens} tokens)"]
        lines += [f"{count} episodes {why}" for why, count in self.left_out.items()]
        if not self.exact:
            lines.append("this model or machine has no exact sampling, so the last bits may differ without a cause")
        if self.differing:
            lines += [f"changed since then: {change}" for change in self.changes]
        return "\n".join([*lines, *map(str, self.differing)])


@dataclass(frozen=True)
class _Weights:
    """Where the weights of a store's episodes are.

    Attributes:
        by_version: number of the weights -> model folder. None stands for every number.
        open: makes the policy of a folder.
        changes: what is not as it was when the episodes were recorded.
        threads: torch threads of the processes that sampled them; 0 is torch's choice.
    """

    by_version: Mapping[int | None, Path]
    open: Callable[[Path], LocalPolicy]
    changes: list[str]
    threads: int = 0

    def folder_of(self, version: int) -> Path | None:
        return self.by_version.get(version, self.by_version.get(None))


def reproduce(
    run: str | Path,
    *,
    episodes: int | None = None,
    stage: str | None = None,
    model: str | Path | None = None,
    on_episode: Callable[[int], None] = lambda count: None,
) -> Reproduction:
    """Sample recorded episodes again, with the recorded seeds and settings.

    Args:
        run: folder of a training run, or of a benchmark of a `local:` policy.
        episodes: at most this many.
        stage: only those of this stage.
        model: folder of the weights of a benchmark's episodes, where the record does not tell.
        on_episode: called after each batch with the number of episodes so far.
    Raises: StoreError if there are no such records; ConfigError if it cannot be told which weights they were sampled
        from.
    """
    folder = Path(run)
    store = folder / "trajectories.jsonl"
    if not store.is_file():
        raise StoreError(f"there is no {store}; give the folder of a training run or of a benchmark")
    if is_run(folder) and model is not None:
        raise ConfigError(f"--model goes with benchmarks: the training run {folder} keeps the weights of its episodes")
    weights = _weights_of_run(folder) if is_run(folder) else _weights_of_bench(folder, model)
    found = Reproduction(changes=weights.changes)
    chosen = _chosen(TrajectoryStore(store), weights, stage, found)
    with _torch_threads(weights.threads):
        for count in _sampled_again(islice(chosen, episodes), weights, found):
            on_episode(count)
    if not (found.equal or found.differing or found.left_out):
        which = "no sampled episodes" if stage is None else f"no sampled episodes of the stage {stage!r}"
        raise StoreError(f"{store} holds {which}: give another run, or another --stage")
    return found


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """Give torch as many threads meanwhile. Args: threads: 0 leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _sampled_again(chosen: Iterator[tuple[Path, Trajectory]], weights: _Weights, found: Reproduction) -> Iterator[int]:
    """Sample the episodes again, batch by batch. Yields: the number of episodes so far."""
    opened: dict[Path, LocalPolicy] = {}
    for batch in _batches(chosen):
        for path in dict.fromkeys(path for path, _ in batch):
            if path not in opened:
                opened = {path: weights.open(path)}  # one model in memory at a time
            policy = opened[path]
            found.exact = found.exact and policy.exact
            asyncio.run(_compare(policy, [episode for at, episode in batch if at == path], found))
        yield found.equal + len(found.differing)


def _batches(chosen: Iterator[tuple[Path, Trajectory]]) -> Iterator[list[tuple[Path, Trajectory]]]:
    while batch := list(islice(chosen, _AT_ONCE)):
        yield batch


def _chosen(
    store: TrajectoryStore, weights: _Weights, stage: str | None, found: Reproduction
) -> Iterator[tuple[Path, Trajectory]]:
    """The episodes that can be sampled again, with their weights; the others are counted."""
    for trajectory in store.read(stage=stage):
        if trajectory.labels.mode == "demonstration":
            continue
        actions = [turn.action for turn in trajectory.turns[trajectory.first_own_turn :]]
        versions = {version for action in actions for version in action.versions or ()}
        if trajectory.sampling is None or not versions:
            found.left_out[NO_SAMPLING] += 1
        elif len(versions) > 1:
            found.left_out[MIXED] += 1
        else:
            folder = weights.folder_of(versions.pop())
            if folder is None:
                found.left_out[NO_WEIGHTS] += 1
            else:
                yield folder, trajectory


# Sampling.


async def _compare(policy: LocalPolicy, episodes: list[Trajectory], found: Reproduction) -> None:
    differences = await asyncio.gather(
        *(_first_difference(policy, number, episode) for number, episode in enumerate(episodes))
    )
    for episode, difference in zip(episodes, differences, strict=True):
        if difference is None:
            found.equal += 1
            found.tokens += episode.num_sampled_tokens
        else:
            found.differing.append(difference)


async def _first_difference(policy: LocalPolicy, number: int, episode: Trajectory) -> FirstDifference | None:
    """Sample the turns of an episode one after the other, each after the recorded context."""
    assert episode.sampling is not None
    sampling, owner, first = replace(episode.sampling, signals=False), f"again-{number}", episode.first_own_turn
    stream = str(sampling.seed)
    try:
        for index, turn in enumerate(episode.turns[first:]):
            action = turn.action
            if not action.token_ids or action.prompt_ids is None:
                continue
            done = await policy.engine.sample(owner, action.prompt_ids, sampling, turn_seed(stream, index))
            token = _first_token(action, done.ids, done.logprobs)
            if token is not None:
                recorded = _shown(action.token_ids, action.logprobs or (), token)
                return FirstDifference(
                    episode.episode_id, first + index, token, recorded, _shown(done.ids, done.logprobs, token)
                )
        return None
    finally:
        policy.engine.release(owner)


def _first_token(action: Action, ids: tuple[int, ...], logprobs: tuple[float, ...]) -> int | None:
    """Index of the first token that differs; None where all are the same bits."""
    before = list(zip(action.token_ids or (), action.logprobs or (), strict=False))
    now = list(zip(ids, logprobs, strict=True))
    if before == now:
        return None
    return next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))


def _shown(ids: tuple[int, ...], logprobs: tuple[float, ...], token: int) -> str:
    return f"id {ids[token]} ({logprobs[token]!r} nats)" if token < min(len(ids), len(logprobs)) else "the turn's end"


# Weights.


def _weights_of_run(path: Path) -> _Weights:
    folder, config = open_run(path)
    kept = [*folder.checkpoints_path.glob("step-*"), *folder.stage_end("x").parent.glob("[!.]*")]
    found: dict[int | None, Path] = {}
    if config.model.path is not None:
        found[0] = Path(config.model.path)
    for one in kept:
        found[int(checkpoint.read(one).extra["state"]["weights"])] = one
    threads = config.scale.threads if config.scale.samplers else config.learner_threads
    changes = []
    if folder.is_finished:
        changes = _changes(json.loads(folder.summary_path.read_text(encoding="utf-8")), threads)
    return _Weights(found, lambda at: _policy_of_run(config, at), changes, threads)


def _policy_of_run(config: TrainConfig, folder: Path) -> LocalPolicy:
    model, tokenizer = model_setup.load(config.model, folder, config.seed)
    return LocalPolicy(
        model,
        tokenizer,
        chat_format=config.model.chat_format,
        slots=config.model.slots or config.run.max_concurrency,
        max_context=config.model.max_context,
        exact=config.sampling.exact,
    )


def _weights_of_bench(path: Path, model: str | Path | None) -> _Weights:
    """Of a benchmark: the folder that its policy names."""
    summary = path / SUMMARY
    if not summary.is_file():
        raise ConfigError(f"{path} holds no {SUMMARY}: give the folder of a training run or of a finished benchmark")
    recorded = json.loads(summary.read_text(encoding="utf-8"))
    identity = recorded.get("identity", {})
    behaviour: Mapping[str, Any] = identity.get("behaviour", {})
    spec = parse_spec(str(identity.get("policy", "null")))
    if model is None and spec.kind != "local":
        raise ConfigError(
            f"the episodes of {path} were played by {spec}, not by a local model: give its folder with --model"
        )
    folder = Path(model or spec.argument).expanduser()
    made_with = {"packages": recorded.get("versions"), "machine": (recorded.get("provenance") or {}).get("machine")}
    changes = _changes(made_with)
    if behaviour.get("files") not in (None, files_fingerprint(folder)):
        changes.append(f"the files in {folder}")
    options = {name: behaviour[name] for name in _OPTIONS if name in behaviour}
    return _Weights({None: folder}, lambda at: LocalPolicy.from_folder(at, **options), changes)


def _changes(recorded: Mapping[str, Any], threads: int = 0) -> list[str]:
    """Packages and properties of the machine that are not as recorded.

    Args:
        recorded: `packages` and `machine`.
        threads: of torch, where it is given the number that sampled.
    """
    then = {**(recorded.get("packages") or {}), **(recorded.get("machine") or {})}
    if threads:
        then.pop("torch_threads", None)
    now = {**packages(), **machine(str(then.get("device", "cpu")))}
    names = [name for name in (*_MADE_WITH, *_RUNS_ON) if name in then and then[name] != now.get(name)]
    return [f"{name} {then[name]}, now {now.get(name)}" for name in names]
