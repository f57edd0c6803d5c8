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
# missing its state moves it by 0.01 or more. In half precision the least likely of 50,000 tokens moves by 0.7 nats in a
# real model (SmolLM2-135M), whose KL to itself is 0.005: there the distribution counts, not its worst token.
_MOST_FLOAT32 = 2e-3
_MOST_HALF_KL = 0.02
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
            differences = _differences(engine)
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
    worst, kl = float(differences[:, 0].max()), float(differences[:, 1].mean())
    half = model.dtype in (torch.float16, torch.bfloat16)
    if not (kl <= _MOST_HALF_KL if half else worst <= _MOST_FLOAT32):
        raise ModelError(
            f"log-probabilities of {type(model).__name__} in the engine differ from the model's own forward pass by up "
            f"to {worst:.2g} nats, {kl:.2g} in the mean, so the model keeps state that the engine has no slots for. "
            f"{_WHAT_TO_DO}"
        )
    return worst


_WHAT_TO_DO = (
    "It can be benchmarked behind a server: `--policy openai:NAME --base-url URL`; for training, choose a model whose "
    "layers are attention alone"
)


def _differences(engine: Engine) -> Tensor:
    """(N, 2) largest difference of a log-probability, and KL from the model to the engine, at N positions."""
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
    return torch.cat(found)


def _fed(engine: Engine, decoding: list[int], new: list[tuple[int, Any]], seen: list[list[int]]) -> Tensor:
    """(B, 2) as `_differences`, for each row that was fed; `seen` are the whole sequences, new tokens included."""
    model, kv = engine.model, engine.kv
    rows = np.asarray(decoding, np.int64)
    last = np.asarray([seen[slot][-1] for slot in decoding], np.int64)
    logits = engine.forward(rows, last, new)
    kv.length[rows] += 1
    for slot, ids in new:
        kv.write_ids(slot, ids)
    own = [
        model(input_ids=torch.tensor([seen[slot]], device=model.device)).logits[0, -1].float()
        for slot in [*decoding, *(slot for slot, _ in new)]
    ]
    found, expected = torch.log_softmax(logits.float(), -1), torch.log_softmax(torch.stack(own), -1)
    kl = (expected.exp() * (expected - found)).sum(-1)
    return torch.stack([(found - expected).abs().amax(-1), kl], -1)
