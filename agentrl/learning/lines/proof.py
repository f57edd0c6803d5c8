"""Whether a model keeps rows apart that share a line, packed one behind the other or as a tree."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agentrl.errors import ModelError
from agentrl.learning.lines.attention import reading
from agentrl.learning.lines.tree import in_one_line
from agentrl.learning.parallel.sharded import body_of
from agentrl.learning.rows import Row

_LENGTHS = (11, 7)
_BRANCHES = ((6, 7, 8, 9), (21, 7, 30, 11))
_MOST = 1e-3  # of the largest hidden state; rounding moves it by 1e-6 in float32, by 1e-2 in half precision
_MOST_HALF = 0.1


@torch.no_grad()
def check_packing(model: nn.Module) -> None:
    """Run two rows packed and alone.

    Raises: ModelError if they differ: the model takes no positions that restart (OPT), or its attention is not told
        where a row ends (GPT-OSS).
    """
    inner: Any = body_of(model)
    device = next(model.parameters()).device
    size = int(model.config.get_text_config().vocab_size)  # type: ignore[operator, union-attr]
    ids = (torch.arange(sum(_LENGTHS), device=device) * 7 + 1) % size
    positions = torch.cat([torch.arange(length, device=device) for length in _LENGTHS])
    training = model.training
    model.eval()
    try:
        packed = inner(input_ids=ids[None], position_ids=positions[None], use_cache=False).last_hidden_state[0]
        rows = torch.split(ids, list(_LENGTHS))
        alone = torch.cat([inner(input_ids=row[None], use_cache=False).last_hidden_state[0] for row in rows])
    finally:
        model.train(training)
    difference = _difference(packed, alone)
    if not difference <= _most(packed):
        raise ModelError(
            f"{type(model).__name__} does not keep packed rows apart: hidden states of a packed row differ by "
            f'{difference:.1%} from the same row alone. Set layout = "pad" in the stage\'s learner settings'
        )


@torch.no_grad()
def why_no_tree(model: nn.Module) -> str:
    """Run two rows that begin alike as a tree and alone.

    Returns: why the model cannot read a tree; "" if it can. Linear attention and state-space models have no attention
        that could be computed row by row, and some models compute it in a function of their own.
    """
    inner: Any = body_of(model)
    device = next(model.parameters()).device
    size = int(model.config.get_text_config().vocab_size)  # type: ignore[operator, union-attr]
    rows = [Row.of([(7 * i + 1) % size for i in (*range(6), *more)], [False] + [True] * 9) for more in _BRANCHES]
    batch = in_one_line(rows)
    assert batch.positions is not None
    training = model.training
    model.eval()
    try:
        ids, positions, index = (torch.from_numpy(a).to(device) for a in (batch.ids, batch.positions, batch.index))
        with reading(model, batch, device):
            found = inner(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[0]
        plain = torch.from_numpy(np.stack([row.ids[:-1] for row in batch.laid])).to(device)
        alone = inner(input_ids=plain, use_cache=False).last_hidden_state.flatten(0, 1)
    except (TypeError, AttributeError, ValueError, RuntimeError) as error:  # what foreign code makes of our attention
        return f"{type(model).__name__} computes attention in a way of its own ({type(error).__name__}: {error})"
    finally:
        model.train(training)
    difference = _difference(found[index], alone)
    if difference <= _most(found):
        return ""
    return f"hidden states of {type(model).__name__} would differ by {difference:.1%}"


def attention_window(model: Any) -> int | None:
    """Most tokens that a token sees in some layer; None where it sees all."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds and kinds <= {"full_attention"}:
        return None
    sizes = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size")]
    return min((size for size in sizes if isinstance(size, int) and size > 0), default=None)


def _difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value; nan counts as any size."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))


def _most(states: Tensor) -> float:
    return _MOST_HALF if states.dtype in (torch.float16, torch.bfloat16) else _MOST
