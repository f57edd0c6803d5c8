"""The model of a run: a checkpoint's, a folder's, or a tiny one built for the demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from agentrl.errors import ConfigError
from agentrl.policy import model_folder, tiny
from agentrl.seeds import Purpose, integer
from agentrl.training.config import TrainConfig
from agentrl.trajectory import Trajectory

# Enough conversations for every merge of a small vocabulary; more would only cost time.
_TOKENIZER_CONVERSATIONS = 500
NOTHING_TO_BEGIN_FROM = (
    "a model built from scratch knows nothing: set model.path to a local model folder, "
    "or warm_start.demonstrators (for example oracle = 1.0) to learn from demonstrations first"
)


def prepare(config: TrainConfig, folder: str | Path | None, demos: Sequence[Trajectory]) -> tuple[Any, Any]:
    """Load or build the model and its tokenizer.

    Args:
        folder: a checkpoint or model folder; None builds the tiny model.
        demos: what the tiny model's tokenizer is trained on.
    Returns: model (evaluation mode, on its device) and tokenizer.
    Raises: ModelError for a folder that cannot be used; ConfigError if there is nothing to begin from.
    """
    device = device_of(config.model.device)
    if folder is not None:
        return model_folder.load(folder, device=device, dtype=getattr(torch, config.model.dtype))
    if not demos:
        raise ConfigError(NOTHING_TO_BEGIN_FROM)
    texts = tiny.conversation_texts(t.messages() for t in demos[:_TOKENIZER_CONVERSATIONS])
    model, tokenizer = tiny.build_tiny(
        texts,
        seed=integer(config.seed, Purpose.MODEL),
        vocab_size=config.model.vocab_size,
        show_tools=False,
        hidden_size=config.model.hidden_size,
        num_layers=config.model.num_layers,
    )
    return model.to(torch.device(device)), tokenizer  # type: ignore[arg-type]


def kv_limits(config: TrainConfig) -> dict[str, Any]:
    """Most slots and tokens of a policy's keys and values, as `LocalPolicy` takes them."""
    slots = config.train.max_concurrency if config.model.slots is None else config.model.slots
    return {"slots": slots, "max_context": config.model.max_context}


def device_of(name: str) -> str:
    """`auto` is the first GPU where there is one. Raises: ConfigError if torch does not know the device."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"model.device = {name!r} cannot be used: {error}; use 'auto', 'cpu' or 'cuda'") from error
    return name
