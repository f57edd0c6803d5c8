"""Proving an engine before anything is sampled: its log-probabilities are those of the model's own forward pass.

Some models keep state that the engine has no slots for and do not say so; only running both tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from agentrl.errors import ModelError

if TYPE_CHECKING:
    from agentrl.policy.engine.scheduler import Engine

# Rounding in float32 moves a log-probability by about 1e-6 in small models and 1e-4 in large ones; a layer that is
# missing its state moves it by 0.01 or more. In half precision rounding depends on the model, and the sharper it is the
# more: it is measured, by how far a forward pass moves when its embeddings move by the last digit.
_MOST_FLOAT32 = 2e-3
_MOST_HALF_MEAN = 0.1
_MOST_ROUNDINGS = 3.0
_HALF = (torch.float16, torch.bfloat16)
_LENGTHS = (24, 9)
_DECODED = 3
_MORE = 12


def prove(engine: Engine) -> float:
    """Compare both on two sequences that are prefilled together, decoded together, and continued.

    Returns: the largest difference of a log-probability, in nats.
    Raises: ModelError if they differ by more than rounding, or the engine cannot run the model.
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
        raise ModelError(
            f"{type(model).__name__} cannot be run with the engine's cache ({type(error).__name__}: {error}). "
            f"{_WHAT_TO_DO}"
        ) from error
    finally:
        engine.kv.drop()
        model.train(training)
    worst, mean = float(differences.max()), float(differences.mean())
    half = model.dtype in _HALF
    most_half = max(_MOST_HALF_MEAN, _MOST_ROUNDINGS * float(rounding.mean()))
    if not (mean <= most_half if half else worst <= _MOST_FLOAT32):
        raise ModelError(
            f"log-probabilities of {type(model).__name__} in the engine differ from the model's own forward pass by up "
            f"to {worst:.2g} nats, so the model keeps state that the engine has no slots for. {_WHAT_TO_DO}"
        )
    return worst


_WHAT_TO_DO = (
    "It can be benchmarked behind a server: `--policy openai:NAME --base-url URL`; for training, choose a model whose "
    "layers are attention alone"
)


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
