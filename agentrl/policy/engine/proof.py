"""Proving an engine before anything is sampled: its log-probabilities are those of the model's own forward pass.

Some models keep state that the engine has no slots for and do not say so; only running both tells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from agentrl.errors import ModelError
from agentrl.policy.engine.choice import STATES, State
from agentrl.policy.engine.slots import OtherState

if TYPE_CHECKING:
    from agentrl.policy.engine.scheduler import Engine

# Rounding in float32 moves a log-probability by about 1e-6 in small models and 1e-4 in large ones; a layer that is
# missing its state moves it by 0.01 or more. In half precision rounding depends on the model, and the sharper it is the
# more: it is measured, by how far a forward pass moves when its embeddings move by the last digit.
_MOST_FLOAT32 = 2e-3
_MOST_HALF_MEAN = 0.1
_MOST_ROUNDINGS = 3.0
_SLOWER: dict[State, str] = {
    "own": "%s keeps other state than keys and values. Its episodes are sampled one after the other, each in a cache "
    "of the model's own making; an inference server is faster",
    "stepwise": "%s keeps other state than keys and values, and goes on from it one token at a time, so that sampling "
    "is slow; an inference server is faster",
}
logger = logging.getLogger(__name__)
# Of two ways to go on from a cache: one that is this many times as far from the whole text has a fault, not rounding.
# So Mamba is 1e-3 nats away where several tokens follow its cache, and 1e-6 a token at a time.
_MOST_ROUNDING = 1e-6
_WORSE = 10.0
_HALF = (torch.float16, torch.bfloat16)
_LENGTHS = (24, 9)
_DECODED = 3
_MORE = 12


def proved(make: Callable[[State], Engine]) -> Engine:
    """The fastest engine that is right for its model, of those that keep an episode's state in one place or another.

    Args: make: an engine, by where it keeps state; it may raise OtherState.
    Raises: ModelError if none is right; what else `make` raises at once.
    """
    failed: list[OtherState] = []
    right: list[tuple[Engine, float]] = []
    for state in STATES:
        try:
            engine = make(state)
            right.append((engine, prove(engine)))
        except OtherState as error:
            failed.append(error)
            continue
        if state == "slots" or right[-1][1] <= _MOST_ROUNDING:
            break  # what follows is slower, and no better
    if not right:
        raise ModelError(f"{failed[1]}. {_WHAT_TO_DO}") from failed[0]
    engine = right[0][0] if right[0][1] < _WORSE * right[-1][1] else right[-1][0]
    if engine.options.state != "slots":
        logger.warning(_SLOWER[engine.options.state], type(engine.model).__name__)
    return engine


def prove(engine: Engine) -> float:
    """Compare both on two sequences that are prefilled together, decoded together, and continued.

    Returns: the largest difference of a log-probability, in nats.
    Raises: OtherState if they differ by more than rounding, or the engine cannot run the model.
    """
    model: Any = engine.model
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            differences, rounding = _differences(engine)
    except ModelError:
        raise
    except Exception as error:  # a model class may raise anything where it takes no cache of ours
        raise OtherState(
            f"{type(model).__name__} cannot be run with {_cache_of(engine)} ({type(error).__name__}: {error})"
        ) from error
    finally:
        engine.kv.drop()
        model.train(training)
    worst, mean = float(differences.max()), float(differences.mean())
    half = model.dtype in _HALF
    most_half = max(_MOST_HALF_MEAN, _MOST_ROUNDINGS * float(rounding.mean()))
    if not (mean <= most_half if half else worst <= _MOST_FLOAT32):
        raise OtherState(
            f"log-probabilities of {type(model).__name__} with {_cache_of(engine)} differ from its own forward pass "
            f"over the whole text by up to {worst:.2g} nats: it keeps state elsewhere, or reads tokens that follow"
        )
    return worst


_WHAT_TO_DO = (
    "An inference server may run it: `--policy openai:NAME --base-url URL` measures it there; for training, choose a "
    "model that is causal and goes on from its cache"
)


def _cache_of(engine: Engine) -> str:
    return "the engine's cache" if engine.options.state == "slots" else "its own cache"


def _differences(engine: Engine) -> tuple[Tensor, Tensor]:
    """(N,) absolute differences over the vocabulary's log-probabilities, at N positions, and (N,) those of rounding.

    Rounding is measured in half precision alone; else it is 0.
    """
    model: Any = engine.model
    room = engine.options.context - _DECODED - _MORE
    lengths = [min(length, max(room, 1)) for length in _LENGTHS[: engine.options.slots]]
    size = model.config.get_text_config().vocab_size
    drawn = np.random.Generator(np.random.Philox(0)).integers(0, size, (len(lengths), sum(_LENGTHS) + _DECODED + _MORE))
    seen = [list(row[:length]) for row, length in zip(drawn, lengths, strict=True)]
    pending = [(slot, np.asarray(ids, np.int32)) for slot, ids in enumerate(seen)]
    found = [_fed(engine, [], pending, seen)]
    for step in range(_DECODED):
        for slot, ids in enumerate(seen):
            ids.append(int(drawn[slot, lengths[slot] + step]))
        found.append(_fed(engine, list(range(len(seen))), [], seen))
    if room > 1:
        more = np.asarray(drawn[0, lengths[0] + _DECODED :][:_MORE], np.int32)
        seen[0] += [int(number) for number in more]
        found.append(_fed(engine, [], [(0, more)], seen))
    differences, roundings = zip(*found, strict=True)
    return torch.cat(differences), torch.cat(roundings)


def _fed(
    engine: Engine, decoding: list[int], new: list[tuple[int, Any]], seen: list[list[int]]
) -> tuple[Tensor, Tensor]:
    """(B,) the largest difference at each row that was fed, and (B,) that of the model's own forward pass from itself.

    Args: seen: the whole sequences, new tokens included.
    """
    model, kv = engine.model, engine.kv
    rows = np.asarray(decoding, np.int64)
    last = np.asarray([seen[slot][-1] for slot in decoding], np.int64)
    logits = engine.forward(rows, last, new)
    kv.length[rows] += 1
    for slot, ids in new:
        kv.write_ids(slot, ids)
    whole = [seen[slot] for slot in [*decoding, *(slot for slot, _ in new)]]
    own = torch.stack([_last(model, ids) for ids in whole])
    if model.dtype not in _HALF:
        return _apart(logits, own), torch.zeros(len(own), device=own.device)
    hook = model.get_input_embeddings().register_forward_hook(_rounded_otherwise)
    try:
        again = torch.stack([_last(model, ids) for ids in whole])
    finally:
        hook.remove()
    return _apart(logits, own), _apart(again, own)


def _last(model: Any, ids: list[int]) -> Tensor:
    """(V,) the logits after a sequence, in the model's own forward pass."""
    logits: Tensor = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, -1].float()
    return logits


def _rounded_otherwise(_: Any, __: Any, embedded: Tensor) -> Tensor:
    """The embeddings with the last digit of every other number moved."""
    signs = torch.ones(embedded.shape[-1], device=embedded.device)
    signs[::2] = -1
    return (embedded * (1 + signs * torch.finfo(embedded.dtype).eps)).to(embedded.dtype)


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """(B,) the largest difference of the log-probabilities of (B, V) logits."""
    return (torch.log_softmax(one, -1) - torch.log_softmax(other, -1)).abs().amax(-1)
