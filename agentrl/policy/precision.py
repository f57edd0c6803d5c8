"""Which type a model's weights get on this machine: bfloat16 where its products are measured to be faster.

Owns the measurement and the choice. What bfloat16 weights are trained through is `agentrl.learning.masters`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch.nn.functional import linear

Precision = Literal["float32", "bfloat16"]

SMALLEST_WIDTH = 512
"""Models with narrower hidden states stay in float32 without a measurement: conversions cost what products gain."""
_WORTH = 1.5
"""How many times faster products must be: a model does more than products."""
_FIRST_WITH_BFLOAT16 = 8
"""Compute capability of the first GPUs that multiply bfloat16 themselves; an H200 does so 15 times as fast."""
_ROWS = 256
_ROUNDS = 5


@dataclass(frozen=True)
class Choice:
    """A type, and why.

    Attributes:
        dtype: of the weights.
        why: a sentence for the log.
    """

    dtype: Precision
    why: str


def choose(width: int, device: str) -> Choice:
    """The type of a model's weights where the settings leave it open.

    Args:
        width: numbers of a hidden state.
        device: that the model is on. CPUs are measured; of GPUs only NVIDIA's are known.
    """
    if not device.startswith(("cpu", "cuda")):
        return Choice("float32", f"the choice of bfloat16 is left to you on {device}")
    if width < SMALLEST_WIDTH:
        return Choice("float32", f"hidden states of {width} numbers are below {SMALLEST_WIDTH}")
    if device.startswith("cuda"):
        major, _ = torch.cuda.get_device_capability(device)
        has = major >= _FIRST_WITH_BFLOAT16
        return Choice("bfloat16" if has else "float32", f"this GPU has {'' if has else 'no '}products in bfloat16")
    if not _has_bfloat16():
        return Choice("float32", "this CPU has no products in bfloat16")
    gain = _gain(width)
    found = f"products of this CPU are {gain:.1f} times as fast in bfloat16 as in float32"
    return Choice("bfloat16" if gain >= _WORTH else "float32", found)


def _has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; elsewhere it is emulated, and slow."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def _gain(width: int) -> float:
    """CPU time of a product in float32 over that in bfloat16: the least of some rounds, in turns.

    It is the time of this thread: that of the process is coarse while the watchdog's timer runs.
    """
    least = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    with torch.inference_mode():
        for _ in range(_ROUNDS):
            for dtype in least:
                rows, weight = torch.ones(_ROWS, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
                linear(rows, weight)  # prepares the product for its shape
                started = time.thread_time()
                for _ in range(_ROUNDS):
                    linear(rows, weight)
                least[dtype] = min(least[dtype], time.thread_time() - started)
    return least[torch.float32] / max(least[torch.bfloat16], 1e-9)
