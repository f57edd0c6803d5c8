"""A number read from the tiny transformer's last state: what the same model does without decoding digits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from agentrl.policy.tiny import build_tiny

_STEPS, _BATCH, _LR = 600, 32, 1e-3
_VOCAB_SIZE = 1024  # as in numeric.toml
_CHECKS = 20


def fit_head(
    train: Sequence[str], numbers: Sequence[float], held_out: Sequence[str], seed: int, *, steps: int = _STEPS
) -> np.ndarray:
    """Predictions for held-out texts, by the weights that were best on an eighth of the training texts.

    The optimizer is AdamW with a rate that falls to 0 over `steps` updates of 32 texts.

    Returns: (N,).
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, tokenizer = build_tiny(train, seed=seed, vocab_size=_VOCAB_SIZE)
    width = model.config.hidden_size
    readout = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 1))
    texts = [torch.tensor(tokenizer(text + "<|im_end|>").input_ids) for text in train]
    mean, deviation = float(np.mean(numbers)), float(np.std(numbers))
    wanted = torch.tensor((np.asarray(numbers) - mean) / deviation, dtype=torch.float32)
    order = np.random.default_rng(seed).permutation(len(texts))
    kept, learnt = order[: len(order) // 8], order[len(order) // 8 :]
    parameters = [*model.parameters(), *readout.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=_LR, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    best, state = float("inf"), {}
    rng = np.random.default_rng(seed)
    for step in range(steps):
        batch = rng.choice(learnt, _BATCH)
        loss = ((_read(model, readout, [texts[i] for i in batch]) - wanted[batch]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % (steps // _CHECKS) == steps // _CHECKS - 1:
            error = float(((_all(model, readout, [texts[i] for i in kept]) - wanted[kept]) ** 2).mean())
            if error < best:
                best = error
                state = {k: v.clone() for k, v in nn.ModuleList([model, readout]).state_dict().items()}
    nn.ModuleList([model, readout]).load_state_dict(state)
    tests = [torch.tensor(tokenizer(text + "<|im_end|>").input_ids) for text in held_out]
    return _all(model, readout, tests).numpy() * deviation + mean


def _read(model: nn.Module, readout: nn.Module, texts: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B,) from the state of each text's last token."""
    lengths = torch.tensor([len(text) for text in texts])
    ids = nn.utils.rnn.pad_sequence(list(texts), batch_first=True)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    states = model.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    return readout(states[torch.arange(len(texts)), lengths - 1])[:, 0]


@torch.no_grad()
def _all(model: nn.Module, readout: nn.Module, texts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([_read(model, readout, texts[i : i + 64]) for i in range(0, len(texts), 64)])
