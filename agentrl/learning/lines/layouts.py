"""Which layout the rows of an update get: the one that was asked for, if the model can read it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

from agentrl.learning.batches import PASS_TOKENS, MicroBatch, Unit, pack, pad
from agentrl.learning.lines.proof import attention_window, check_packing, why_no_tree
from agentrl.learning.lines.tree import tree
from agentrl.learning.rows import Row

logger = logging.getLogger(__name__)

Layout = Literal["tree", "pad", "pack"]

# Attention over a row of T tokens takes 4 T^2 H operations in a layer, the maps of a layer about 24 T H^2.
_HIDDEN_SIZES = 6.0


class Layouts:
    """Lays rows out in micro-batches for one model.

    Args:
        model: a `transformers` causal LM.
        layout: `tree`, `pad` or `pack`, as `LearnerSettings.layout` says.
        max_tokens: most tokens of a micro-batch.
    Raises: ModelError if the model cannot read packed rows, and these were asked for.
    """

    def __init__(self, model: Any, layout: Layout, max_tokens: int) -> None:
        self._model, self._layout, self._max_tokens = model, layout, max_tokens
        self._no_tree: str | None = None
        if layout == "pack":
            check_packing(model)

    def of(self, rows: Sequence[Row], keep: Unit = "row") -> list[MicroBatch]:
        """Micro-batches of rows. Call it in the state in which the model updates: it may try the model.

        Args: keep: rows of one such unit stay in one micro-batch.
        """
        if self._layout == "pack":
            return pack(rows, self._max_tokens, keep)
        # Elsewhere than on a CPU a pass takes as long for few tokens as for many, so there are as few as can be.
        is_cpu = next(self._model.parameters()).device.type == "cpu"
        pass_tokens = PASS_TOKENS if is_cpu else self._max_tokens
        if self._layout == "pad" or not self._reads_trees(rows):
            return pad(rows, self._max_tokens, keep, pass_tokens=pass_tokens)
        attention_tokens = _HIDDEN_SIZES * self._model.config.get_text_config().hidden_size
        return tree(rows, self._max_tokens, keep, pass_tokens=pass_tokens, attention_tokens=attention_tokens)

    def prove(self) -> None:
        """Find out now what the model reads, where it is to be spread over ranks: later they would not try together."""
        if self._layout == "tree":
            self._reads_trees(())

    def _reads_trees(self, rows: Sequence[Row]) -> bool:
        """Whether these rows may share their prefixes; the model is tried once."""
        if self._no_tree is None:
            self._no_tree = why_no_tree(self._model)
            if self._no_tree:
                logger.warning("rows that share a prefix go through the model one by one: %s", self._no_tree)
        window = attention_window(self._model)
        return not self._no_tree and (window is None or max(map(len, rows), default=0) <= window)
