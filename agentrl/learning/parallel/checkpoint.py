"""Checkpoints of a learner that any number of processes writes together and any other number reads.

Each rank writes and reads its own part (`torch.distributed.checkpoint`). Owns the names in such a checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from agentrl.learning.masters import MasterWeights
from agentrl.learning.parallel.ranks import Ranks
from agentrl.learning.parallel.sharded import spread_again

_COUNTERS = "counters"
_METADATA = ".metadata"


class Learning(Protocol):
    """What a checkpoint holds of a `Learner`."""

    model: Any
    masters: MasterWeights
    models: Any
    optimizers: Sequence[torch.optim.Optimizer]
    ranks: Ranks

    def counters(self) -> dict[str, Any]: ...
    def load_counters(self, state: Mapping[str, Any]) -> None: ...


def save_parts(learner: Learning, folder: str | Path) -> None:
    """Write a learner: weights, float32 masters, reference, value head, optimizer's state, counters, shuffling.

    All ranks call it, with the same folder, which all of them can reach.

    Raises: FileExistsError if the folder holds something.
    """
    place = Path(folder)
    holds_something = learner.ranks.most(int(place.is_dir() and any(place.iterdir())))
    if holds_something:
        raise FileExistsError(f"{place} is not empty: choose another folder, so that nothing is lost")
    spread_again(learner.model)
    state = {**dict(_weights(learner)), **dict(_moments(learner)), _COUNTERS: json.dumps(learner.counters())}
    save(state, checkpoint_id=place, process_group=learner.ranks.group, no_dist=learner.ranks.size == 1)


def load_parts(learner: Learning, folder: str | Path) -> None:
    """Continue from `save_parts`, on any number of ranks, whether or not they share the weights. All ranks call it.

    Raises: ValueError if the folder holds no such checkpoint, or that of another model, objective or optimizer.
    """
    place = Path(folder)
    if not (place / _METADATA).is_file():
        raise ValueError(f"{place} holds no checkpoint of ranks: name a folder that `save_parts` has written")
    spread_again(learner.model)
    known = set(FileSystemReader(place).read_metadata().state_dict_metadata)
    weights = dict(_weights(learner))
    moments = {name: value for name, value in _empty_moments(learner) if name in known}
    state: dict[str, Any] = {**weights, **moments, _COUNTERS: ""}
    if known != set(state):
        other = ", ".join(sorted(known ^ set(state))[:3])
        raise ValueError(f"{place} is of another model, objective or optimizer: only one side has {other}")
    load(state, checkpoint_id=place, process_group=learner.ranks.group, no_dist=learner.ranks.size == 1)
    for name, parameter, optimizer in _updated(learner):
        prefix = f"optimizer/{name}/"
        found = {key.removeprefix(prefix): state[key] for key in moments if key.startswith(prefix)}
        if found:
            optimizer.state[parameter] = found
    learner.load_counters(json.loads(state[_COUNTERS]))


def _weights(learner: Learning) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in learner.model.named_parameters():
        yield f"model/{name}", parameter.detach()
    for name, master in learner.masters.state_dict().items():
        yield f"masters/{name}", master
    for part, values in learner.models.state_dict().items():
        for name, value in (values or {}).items():
            yield f"{part}/{name}", value.detach()


def _updated(learner: Learning) -> Iterator[tuple[str, nn.Parameter, torch.optim.Optimizer]]:
    """What the optimizers update, by names that are the same on all ranks."""
    head = learner.models.value_head
    named = [(name, learner.masters.of(p)) for name, p in learner.model.named_parameters()]
    named += [] if head is None else list(head.named_parameters(prefix="value_head"))
    names = {id(parameter): name for name, parameter in named}
    for optimizer in learner.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield names[id(parameter)], parameter, optimizer


def _moments(learner: Learning) -> Iterator[tuple[str, Tensor]]:
    for name, parameter, optimizer in _updated(learner):
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"optimizer/{name}/{key}", value


def _empty_moments(learner: Learning) -> Iterator[tuple[str, Tensor]]:
    """The state that an optimizer can have, to be filled: that of AdamW, and of Muon."""
    for name, parameter, _ in _updated(learner):
        yield f"optimizer/{name}/step", torch.zeros((), dtype=torch.float32)
        for key in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
            yield f"optimizer/{name}/{key}", torch.zeros_like(parameter.detach())
