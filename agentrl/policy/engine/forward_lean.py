"""A lean forward pass for the Llama family (Llama, Mistral, Qwen2, Qwen3) over key/value slots.

Reads the model's own parameters at every call and copies none, so a learner's update is seen at once.
All new tokens of a round, decoded and prefilled, go through the linear layers as one flat batch; only
attention looks at rows. `supports` says for which models this equals the model's own forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from numpy.typing import NDArray
from torch import Tensor, nn

from agentrl.policy.engine.exact import AnyShapes, AttentionShape, Shapes, exact_shapes
from agentrl.policy.engine.slots import Ids, KvSlots

_FAMILY = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
_FIXED_ROPE = frozenset({"default", "linear", "llama3", "yarn"})

# Decoding a contiguous range of slots reads keys in place; decoding scattered ones copies them first, which costs three
# times as much on a CPU. Where a slot's keys and values are more than this, each range is a call of its own there.
# Elsewhere a call costs more than its rows, so idle slots inside a range are computed too, up to this factor.
_COPIED_BYTES = 2**19
_DENSE_UP_TO = 2.0

# Prefills of at most this many tokens count as equally long.
_SHORT = 16

# Most new tokens of a slot that holds others already that are attended at once: more would read more masked keys.
_SEGMENT = 512


def supports(model: Any) -> bool:
    """Whether the lean forward equals `model.forward`: known class, plain layers, full attention."""
    kind = type(model)
    if kind.__name__ not in _FAMILY or not kind.__module__.startswith("transformers."):
        return False
    config = model.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    full = all(kind == "full_attention" for kind in getattr(config, "layer_types", None) or ())
    plain = all(_is_plain(name, module) for name, module in model.named_modules())
    window = getattr(config, "sliding_window", None) if not getattr(config, "layer_types", None) else None
    return config.hidden_act == "silu" and rope in _FIXED_ROPE and full and plain and window is None


def _is_plain(name: str, module: nn.Module) -> bool:
    """Whether a module is computed as the lean forward does: linear maps, LoRA on those of the layers."""
    if name.endswith("lm_head"):
        return type(module) is nn.Linear
    if name.endswith("_proj"):
        return type(module) is nn.Linear or _is_lora(module)
    return not type(module).__module__.startswith("peft.") or "_proj.lora_" in name


def _is_lora(module: nn.Module) -> bool:
    return type(module).__module__.startswith("peft.tuners.lora") and type(module).__name__ == "Linear"


@dataclass(frozen=True)
class _Layout:
    """Slot, position and mask of each token of one round.

    N flat tokens: first one per decoding row, then each prefill's in turn.

    Attributes:
        rows, positions: (N,) slot and position of each token.
        decode: number of decoding rows.
        decodes: those rows, in groups that are attended at once.
        prefills: the other rows, likewise.
        ends: (B + P,) flat index of each row's last token.
    """

    rows: Tensor
    positions: Tensor
    decode: int
    decodes: tuple[_Decode, ...]
    prefills: tuple[_Prefill, ...]
    ends: Tensor


@dataclass(frozen=True)
class _Decode:
    """Decoding rows attended at once.

    Attributes:
        at: (B,) which of the decoding rows they are.
        slots: a range that is attended in place, or (B,) slots whose keys are copied first.
        inside: (B,) their places in the range; None where it has no others.
        seen: which positions each row sees, additive, (rows, 1, 1, span).
    """

    at: slice | Tensor
    slots: slice | Tensor
    inside: Tensor | None
    seen: Tensor


@dataclass(frozen=True)
class _Prefill:
    """P prefills attended at once, each padded at its end to M new tokens.

    Attributes:
        tokens: of the N flat tokens, theirs.
        slots: (P,) slot of each; a range where there is one alone, so that its keys are read in place.
        real: index of their tokens among the P * M padded ones; None where nothing is padded.
        width: M.
        span: keys that are read.
        seen: what each query sees; None where they are the first M tokens of their slot, which is plainly causal.
            Attended alone: (1, 1, M, span), additive, and further rows that fill the queries up. Else bool,
            (P, 1, G * M, span), where G query heads share a key head.
    """

    tokens: slice
    slots: Tensor | slice
    real: Tensor | None
    width: int
    span: int
    seen: Tensor | None


class LeanForward:
    """The forward pass of a supported model over slots.

    Args: exact: use shapes alone at which a row's result does not depend on the others.
    Raises: NotExact if there are no such shapes.
    """

    def __init__(self, model: Any, kv: KvSlots, *, exact: bool = False) -> None:
        self.model, self.kv = model, kv
        config = model.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps = config.rms_norm_eps
        self.shapes: Shapes = AnyShapes()
        if exact:
            self.shapes = exact_shapes(self._attention_shape())
        self.cos_TD, self.sin_TD = self._rope_tables()

    def _rope_tables(self) -> tuple[Tensor, Tensor]:
        """(T, 1, D) cosines, and sines whose first half carries the sign of the rotation."""
        weight = self.model.model.embed_tokens.weight
        positions = torch.arange(self.kv.context, device=weight.device)[None]
        with torch.no_grad():
            cos, sin = self.model.model.rotary_emb(weight, positions)
        half = self.head_dim // 2
        sin = torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)
        return cos[0][:, None], sin[:, None]

    def _attention_shape(self) -> AttentionShape:
        weight = self.model.model.embed_tokens.weight
        return AttentionShape(
            group=self.heads // self.kv_heads,
            kv_heads=self.kv_heads,
            width=self.head_dim,
            context=self.kv.context,
            dtype=weight.dtype,
            device=weight.device,
            threads=torch.get_num_threads(),
        )

    @torch.inference_mode()
    def __call__(self, rows: NDArray[np.int64], last: NDArray[np.int64], prefills: Sequence[tuple[int, Ids]]) -> Tensor:
        """Feed one token to each decoding slot, and new tokens to others: see `choice.Forward`."""
        groups = self._groups([len(ids) for _, ids in prefills])
        at = self._layout(rows, prefills, groups)
        tokens = np.concatenate([last, *(prefills[number][1] for group in groups for number in group)])
        model = self.model.model
        x_ND = F.embedding(torch.from_numpy(tokens).to(at.rows.device), model.embed_tokens.weight)
        count = self.shapes.rows(len(x_ND))
        x_ND = _filled(x_ND, count)
        cos, sin = (_filled(of_all[at.positions], count) for of_all in (self.cos_TD, self.sin_TD))
        for index, layer in enumerate(model.layers):
            x_ND = self._layer(index, layer, x_ND, cos, sin, at)
        if len(at.ends) < len(x_ND):
            x_ND = _filled(x_ND[at.ends], self.shapes.rows(len(at.ends)))
        logits: Tensor = self.shapes.linear(self.model.lm_head, self._norm(x_ND, model.norm))
        return logits[: len(at.ends)].float()

    def _layer(self, index: int, layer: Any, x_ND: Tensor, cos: Tensor, sin: Tensor, at: _Layout) -> Tensor:
        attention, mlp, linear = layer.self_attn, layer.mlp, self.shapes.linear
        h_ND = self._norm(x_ND, layer.input_layernorm)
        mixed = self._attend(index, attention, h_ND, cos, sin, at)
        x_ND = x_ND + linear(attention.o_proj, mixed)
        h_ND = self._norm(x_ND, layer.post_attention_layernorm)
        gate = self.shapes.silu(linear(mlp.gate_proj, h_ND))
        return x_ND + linear(mlp.down_proj, gate * linear(mlp.up_proj, h_ND))

    def _attend(self, index: int, attention: Any, h_ND: Tensor, cos: Tensor, sin: Tensor, at: _Layout) -> Tensor:
        """(N, H * D) what each token's heads read."""
        n, linear, new = len(h_ND), self.shapes.linear, len(at.rows)
        query = linear(attention.q_proj, h_ND).view(n, self.heads, self.head_dim)
        key = linear(attention.k_proj, h_ND).view(n, self.kv_heads, self.head_dim)
        value = linear(attention.v_proj, h_ND).view(n, self.kv_heads, self.head_dim)
        if hasattr(attention, "q_norm"):
            query, key = self._norm(query, attention.q_norm), self._norm(key, attention.k_norm)
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        keys, values = self.kv.layer(index, key[:, :, None], value[:, :, None])
        keys[at.rows, :, at.positions] = key[:new]
        values[at.rows, :, at.positions] = value[:new]
        parts = [self._decode_attention(query[: at.decode], keys, values, at)] if at.decode else []
        parts += [self._prefill_attention(query[group.tokens], keys, values, group) for group in at.prefills]
        return _filled(parts[0] if len(parts) == 1 else torch.cat(parts), n)

    def _decode_attention(self, query: Tensor, keys: Tensor, values: Tensor, at: _Layout) -> Tensor:
        """(B, H * D) of all decoding rows."""
        if len(at.decodes) == 1:
            return self._decode_group(query, keys, values, at.decodes[0])
        mixed = query.new_empty((at.decode, self.heads * self.head_dim))
        for group in at.decodes:
            mixed[group.at] = self._decode_group(query[group.at], keys, values, group)
        return mixed

    def _decode_group(self, query: Tensor, keys: Tensor, values: Tensor, at: _Decode) -> Tensor:
        """(B, H * D). The query heads that share a key head attend as if they were further positions."""
        span, count = at.seen.shape[-1], len(query)
        group = self.heads // self.kv_heads
        query = query.view(count, self.kv_heads, group, self.head_dim)
        filled = self.shapes.queries(group)
        if filled > group:
            query = F.pad(query, (0, 0, 0, filled - group))
        if at.inside is not None:
            query = query.new_zeros((len(at.seen), *query.shape[1:])).index_copy_(0, at.inside, query)
        keys, values = keys[at.slots, :, :span], values[at.slots, :, :span]
        mask = at.seen.expand(-1, 1, filled, -1)
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)[:, :, :group]
        if at.inside is not None:
            mixed = mixed[at.inside]
        return mixed.reshape(count, -1)

    def _prefill_attention(self, query: Tensor, keys: Tensor, values: Tensor, at: _Prefill) -> Tensor:
        """(M, H * D) of the new tokens of some rows."""
        keys, values = keys[at.slots, :, : at.span], values[at.slots, :, : at.span]
        if at.seen is None or at.seen.dtype != torch.bool:
            return self._attend_alone(query, keys, values, at.seen)
        p, m, group = len(at.seen), at.width, self.heads // self.kv_heads
        if at.real is not None:
            query = query.new_zeros((p * m, *query.shape[1:])).index_copy_(0, at.real, query)
        grouped = query.view(p, m, self.kv_heads, group, self.head_dim).permute(0, 2, 3, 1, 4)
        flat = grouped.reshape(p, self.kv_heads, group * m, self.head_dim)
        mixed = F.scaled_dot_product_attention(flat, keys, values, attn_mask=at.seen)
        mixed = mixed.reshape(p, self.kv_heads, group, m, self.head_dim).permute(0, 3, 1, 2, 4).reshape(p * m, -1)
        return mixed if at.real is None else mixed[at.real]

    def _attend_alone(self, query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
        """(M, H * D) of new tokens of one slot; query heads find their key head without a copy of it."""
        heads, m = query.transpose(0, 1)[None], len(query)
        if seen is not None and seen.shape[2] > m:
            heads = F.pad(heads, (0, 0, 0, seen.shape[2] - m))
        shared = self.heads > self.kv_heads
        mixed = F.scaled_dot_product_attention(
            heads, keys, values, attn_mask=seen, is_causal=seen is None, enable_gqa=shared
        )
        return mixed[0, :, :m].transpose(0, 1).reshape(m, -1)

    def _norm(self, x: Tensor, norm: Any) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), norm.weight, self.eps)

    @property
    def _is_alone(self) -> bool:
        """Whether each prefill is attended alone."""
        return self.cos_TD.device.type == "cpu" or self.shapes.alone

    def _groups(self, counts: Sequence[int]) -> list[list[int]]:
        """Which prefills are attended at once: on a CPU each alone, which copies and pads nothing.

        Elsewhere a call costs more than its padding, so those of similar length (within a factor of two) go together.
        """
        if self._is_alone:
            return [[number] for number in range(len(counts))]
        groups: dict[int, list[int]] = {}
        for number, count in enumerate(counts):
            groups.setdefault((max(count, _SHORT) - 1).bit_length(), []).append(number)
        return list(groups.values())

    def _layout(
        self, rows: NDArray[np.int64], prefills: Sequence[tuple[int, Ids]], groups: Sequence[Sequence[int]]
    ) -> _Layout:
        length = self.kv.length
        order = np.array([number for group in groups for number in group], np.int64)
        slots = np.array([slot for slot, _ in prefills], np.int64)[order]
        counts = np.array([len(ids) for _, ids in prefills], np.int64)[order]
        after = np.cumsum(counts)  # end of each among the new tokens
        offsets = np.arange(counts.sum()) - (after - counts).repeat(counts)
        all_rows = np.concatenate([rows, slots.repeat(counts)])
        positions = np.concatenate([length[rows], length[slots].repeat(counts) + offsets])
        longest = int(positions.max()) + 1
        self.kv.reserve(int(all_rows.max()) + 1, self._span(longest))
        ends = np.arange(len(rows) + len(prefills))
        ends[len(rows) + order] = len(rows) + after - 1
        made: list[_Prefill] = []
        first, start = 0, len(rows)
        for group in groups:
            part = slice(first, first + len(group))
            made += self._prefills(slots[part], counts[part], start)
            first, start = part.stop, made[-1].tokens.stop
        put = self._put
        return _Layout(put(all_rows), put(positions), len(rows), self._decodes(rows), tuple(made), put(ends))

    def _span(self, longest: int) -> int:
        """How many keys are read for a query that sees `longest`."""
        return self.shapes.span(int(self.shapes.classes(np.array([longest]))[0]), longest)

    def _decodes(self, rows: NDArray[np.int64]) -> tuple[_Decode, ...]:
        """The decoding rows, in groups that may be attended together."""
        if not len(rows):
            return ()
        kinds = self.shapes.classes(self.kv.length[rows] + 1)
        parts = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
        parts = [run for part in parts for run in self._runs(part, rows[part])]
        return tuple(self._decode(at, rows, int(kinds[at[0]])) for at in parts)

    def _runs(self, at: NDArray[np.int64], rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Decoding rows of ascending slots, split into ranges of slots where that costs less than copies."""
        numbers = 2 * int(self.kv.length[rows].max()) * self.kv_heads * self.head_dim
        if self.cos_TD.device.type != "cpu" or numbers * self.cos_TD.element_size() < _COPIED_BYTES:
            return [at]
        return np.split(at, np.flatnonzero(np.diff(rows) != 1) + 1)

    def _decode(self, at: NDArray[np.int64], all_rows: NDArray[np.int64], kind: int) -> _Decode:
        """A group: the decoding rows `at`."""
        rows, length = all_rows[at], self.kv.length
        first, last = int(rows.min()), int(rows.max()) + 1
        dense = last - first <= _DENSE_UP_TO * len(rows)
        slots = slice(first, last) if dense else self._put(rows)
        inside = self._put(rows - first) if dense and last - first > len(rows) else None
        span = self.shapes.span(kind, int(length[rows].max()) + 1)
        hidden = np.arange(span)[None] > length[slots if dense else rows][:, None]
        mask = self._put(np.where(hidden, -np.inf, 0.0)).to(self.cos_TD.dtype)
        begin, end = int(at[0]), int(at[-1]) + 1
        which = slice(begin, end) if end - begin == len(at) else self._put(at)
        return _Decode(which, slots, inside, mask[:, None, None])

    def _prefills(self, slots: NDArray[np.int64], counts: NDArray[np.int64], start: int) -> list[_Prefill]:
        """A group whose tokens begin at flat index `start`."""
        if self._is_alone and len(slots) == 1:
            return self._segments(int(slots[0]), int(counts[0]), start)
        held, device, group = self.kv.length[slots], self.cos_TD.device, self.heads // self.kv_heads
        width, span = int(counts.max()), int((held + counts).max())
        last_seen = self._put(held)[:, None, None] + torch.arange(width, device=device)[:, None]
        seen = (torch.arange(span, device=device) <= last_seen).repeat(1, group, 1)[:, None]
        real = self._put(np.flatnonzero(np.arange(width) < counts[:, None])) if len(slots) > 1 else None
        at = self._put(slots) if len(slots) > 1 else slice(int(slots[0]), int(slots[0]) + 1)
        return [_Prefill(slice(start, start + int(counts.sum())), at, real, width, span, seen)]

    def _segments(self, slot: int, count: int, start: int) -> list[_Prefill]:
        """The new tokens of one slot, in parts that may each be attended at once."""
        held = int(self.kv.length[slot])
        at = slice(slot, slot + 1)
        if not held and self.shapes.is_causal:
            return [_Prefill(slice(start, start + count), at, None, count, count, None)]
        kinds = self.shapes.classes(held + 1 + np.arange(count))
        made, first = [], 0
        while first < count:
            last = min(int(np.searchsorted(kinds, kinds[first], side="right")), first + _SEGMENT)
            width, before = last - first, held + first
            span = self.shapes.span(int(kinds[first]), held + last)
            tokens = slice(start + first, start + last)
            made.append(_Prefill(tokens, at, None, width, span, self._seen(width, before, span)))
            first = last
        return made

    def _seen(self, width: int, before: int, span: int) -> Tensor:
        """(1, 1, M, span) the additive mask of `width` tokens after `before` others, the queries filled up."""
        hidden = torch.ones((width, span), dtype=torch.bool, device=self.cos_TD.device).triu_(before + 1)
        seen = torch.zeros((self.shapes.queries(width), span), dtype=self.cos_TD.dtype, device=self.cos_TD.device)
        seen[:width].masked_fill_(hidden, -torch.inf)
        return seen[None, None]

    def _put(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self.cos_TD.device)


def _filled(x: Tensor, count: int) -> Tensor:
    """The rows, with zeros after them up to a number that the products take."""
    return torch.cat((x, x.new_zeros((count - len(x), *x.shape[1:])))) if count > len(x) else x


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: x * cos + rotate_half(x) * sin, the sign of the half being in `sin`."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
