"""Whether a model keeps packed rows apart: one row behind the other in a line must not see each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from agentrl.errors import ModelError

_LENGTHS = (11, 7)
_MOST = 1e-3  # of the largest hidden state; rounding moves it by 1e-6 in float32, by 1e-2 in half precision
_MOST_HALF = 0.1


@torch.no_grad()
def check_packing(model: nn.Module) -> None:
    """Run two rows packed and alone.

    Raises: ModelError if they differ: the model takes no positions that restart (OPT), or its attention is not told
        where a row ends (GPT-OSS).
    """
    inner: Any = getattr(model, "base_model", model)
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
    difference = float((packed - alone).abs().max() / alone.abs().max().clamp(min=1e-6))
    half = packed.dtype in (torch.float16, torch.bfloat16)
    if not difference <= (_MOST_HALF if half else _MOST):
        raise ModelError(
            f"{type(model).__name__} does not keep packed rows apart: hidden states of a packed row differ by "
            f'{difference:.1%} from the same row alone. Set layout = "pad" in the stage\'s learner settings'
        )
