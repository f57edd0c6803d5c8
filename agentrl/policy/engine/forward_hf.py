"""The forward pass of any `transformers` causal LM over key/value slots. `forward_lean` is faster for its models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from agentrl.policy.engine.slots import Ids, KvSlots, OtherState

_KINDS = frozenset({"full_attention", "sliding_attention"})


class _SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer of the slots, as the model's attention sees it during one forward."""

    is_sliding = False

    def __init__(self, owner: _SlotCache, index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owner, self.index = owner, index

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = self.owner.kv.layer(self.index, key_states, value_states)
        at = self.owner
        keys[at.rows[:, None], :, at.write_to] = key_states.transpose(1, 2)
        values[at.rows[:, None], :, at.write_to] = value_states.transpose(1, 2)
        return at.view(keys), at.view(values)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.span, 0

    def get_seq_length(self) -> int:
        return self.owner.span

    def get_max_length(self) -> int:
        return self.owner.kv.context


class _SlotCache(Cache):
    """The slots as a `transformers` cache; `rows`, `write_to` and `span` are set before each forward."""

    def __init__(self, kv: KvSlots, layers: int) -> None:
        super().__init__(layers=[_SlotLayer(self, i) for i in range(layers)])
        self.kv = kv
        self.rows = self.write_to = torch.empty(0, dtype=torch.long)
        self.span = 0
        self.dense = False

    def view(self, tensor: Tensor) -> Tensor:
        """(B, H, span, D) of the rows in this forward; a view where they are the first B slots."""
        if self.dense:
            return tensor[: len(self.rows), :, : self.span]
        return tensor[self.rows, :, : self.span]


class HfForward:
    """Runs `model(...)` with a cache that reads and writes slots.

    Raises: OtherState if the model keeps other state than keys and values.
    """

    def __init__(self, model: Any, kv: KvSlots) -> None:
        self.model, self.kv = model, kv
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ())
        if not kinds <= _KINDS:
            raise OtherState(
                f"{type(model).__name__} has layers of kind {sorted(kinds - _KINDS)}, which keep state that the "
                "engine has no slots for"
            )
        window = getattr(config, "sliding_window", None)
        self.window: int | None = window if window and (not kinds or "sliding_attention" in kinds) else None
        self.by_kind = bool(kinds) and self.window is not None
        self.cache = _SlotCache(kv, config.num_hidden_layers)

    @torch.inference_mode()
    def __call__(self, rows: NDArray[np.int64], last: NDArray[np.int64], prefills: Sequence[tuple[int, Ids]]) -> Tensor:
        """Feed one token to each decoding slot, and new tokens to others: see `choice.Forward`."""
        parts = []
        if len(rows):
            parts.append(self._decode(rows, last))
        if prefills:
            counts = np.array([len(ids) for _, ids in prefills])
            tokens = np.zeros((len(prefills), int(counts.max())), np.int64)
            for row, (_, ids) in zip(tokens, prefills, strict=True):
                row[len(row) - len(ids) :] = ids
            parts.append(self._padded(np.array([slot for slot, _ in prefills]), tokens, counts))
        return torch.cat(parts)

    def _decode(self, rows: NDArray[np.int64], last: NDArray[np.int64]) -> Tensor:
        """One token a row. Idle slots in between are computed too where that saves copying keys."""
        reach = int(rows.max()) + 1
        if reach > 2 * len(rows):
            return self._padded(rows, last[:, None], np.ones(len(rows), np.int64))
        tokens, counts = np.zeros((reach, 1), np.int64), np.zeros(reach, np.int64)
        tokens[rows, 0], counts[rows] = last, 1
        return self._padded(np.arange(reach), tokens, counts)[torch.from_numpy(rows)]

    def _padded(self, rows: NDArray[np.int64], tokens: NDArray[np.int64], counts: NDArray[np.int64]) -> Tensor:
        """(B, V) logits after (B, M) new tokens, padded on the LEFT, of which `counts` are real."""
        start = self.kv.length[rows]
        positions = start[:, None] + np.arange(tokens.shape[1])[None, :] - (tokens.shape[1] - counts)[:, None]
        real = positions >= start[:, None]
        device, cache = self.model.device, self.cache
        self.kv.reserve(int(rows.max()) + 1, int((start + counts).max()))
        cache.rows = torch.from_numpy(rows).to(device)
        cache.write_to = torch.from_numpy(np.where(real, positions, self.kv.positions)).to(device)
        cache.span = int((start + counts)[counts > 0].max())
        cache.dense = bool((rows == np.arange(len(rows))).all())
        positions_BM = torch.from_numpy(np.maximum(positions, 0)).to(device)
        output = self.model(
            input_ids=torch.from_numpy(tokens).to(device),
            attention_mask=self._masks(positions_BM),
            position_ids=positions_BM,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def _masks(self, positions_BM: Tensor) -> Tensor | dict[str, Tensor]:
        """Additive masks (B, 1, M, span), one per kind of layer where the model has several."""
        columns = torch.arange(self.cache.span, device=positions_BM.device)[None, None, :]
        seen = columns <= positions_BM[:, :, None]
        if self.window is None:
            return self._additive(seen)
        near = self._additive(seen & (columns > positions_BM[:, :, None] - self.window))
        return {"full_attention": self._additive(seen), "sliding_attention": near} if self.by_kind else near

    def _additive(self, seen_BMT: Tensor) -> Tensor:
        dtype = self.model.dtype
        mask = torch.zeros(seen_BMT.shape, dtype=dtype, device=seen_BMT.device)
        return mask.masked_fill_(~seen_BMT, torch.finfo(dtype).min)[:, None]
