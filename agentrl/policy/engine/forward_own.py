"""The forward pass of a model in caches of its own making: for linear attention, state-space layers and the like.

It asks nothing of a model but that it goes on from what it returned. Rows are computed one after the other, and no
prefix is shared but by copies, so `forward_lean` and `forward_hf` are faster for models that keep keys and values.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentrl.policy.engine.slots import Ids, OtherState, OwnCaches

_NAMES = ("past_key_values", "cache_params", "state")
"""What models call their cache, in what they return as in what they are given."""


_CHOOSES = frozenset({"indexed_attention", "compressed_sparse_attention", "heavily_compressed_attention"})
"""Kinds of layer that read chosen tokens alone, and choose others where more tokens follow."""


class OwnForward:
    """Runs `model(...)` with what it returned for the same slot before.

    Args:
        model: a causal LM.
        kv: the caches.
        stepwise: go on one token at a time, for models that forget what they know at a longer input.
    """

    def __init__(self, model: Any, kv: OwnCaches, *, stepwise: bool = False) -> None:
        self.model, self.kv, self.stepwise = model, kv, stepwise
        known = inspect.signature(model.forward).parameters
        self._options: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in known:
            self._options["logits_to_keep"] = 1
        self._name = next((name for name in _NAMES if name in known), "")
        chosen = _CHOOSES.intersection(getattr(model.config.get_text_config(), "layer_types", None) or ())
        if chosen:
            raise OtherState(
                f"{type(model).__name__} has layers of kind {sorted(chosen)}, which read chosen tokens alone"
            )
        if not self._name:
            raise OtherState(f"{type(model).__name__} takes no cache: its forward has none of {', '.join(_NAMES)}")

    @torch.inference_mode()
    def __call__(self, rows: NDArray[np.int64], last: NDArray[np.int64], prefills: Sequence[tuple[int, Ids]]) -> Tensor:
        """Feed one token to each decoding slot, and new tokens to others: see `choice.Forward`."""
        decoded = [self._fed(int(slot), last[at : at + 1]) for at, slot in enumerate(rows)]
        return torch.stack([*decoded, *(self._fed(slot, ids) for slot, ids in prefills)])

    def _fed(self, slot: int, ids: NDArray[Any]) -> Tensor:
        """(V,) logits after the new ids of a slot."""
        cache = self.kv.caches.pop(slot, None)
        if not self.kv.length[slot]:
            cache = None
        step = 1 if self.stepwise and cache is not None else len(ids)
        ids_1M = torch.from_numpy(np.asarray(ids, np.int64)).to(self.model.device)[None]
        for part in torch.split(ids_1M, step, dim=1):
            given = {} if cache is None else {self._name: cache}
            output = self.model(input_ids=part, **given, **self._options)
            cache = getattr(output, self._name, None)
            if cache is None:
                raise OtherState(f"{type(self.model).__name__} returns no {self._name} to go on from")
        self.kv.caches[slot] = cache
        logits: Tensor = output.logits[0, -1].float()
        return logits
