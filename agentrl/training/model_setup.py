"""Which model a run has: a checkpoint's, a folder's, or a tiny one built for the run's conversations.

Its files belong to `agentrl.policy.model_folder`, the models of an update to `agentrl.learning.models`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from agentrl.config import Count
from agentrl.errors import ConfigError
from agentrl.messages import Message
from agentrl.policy import model_folder
from agentrl.seeds import Purpose, integer

# Enough conversations for every merge of a small vocabulary; more would only cost time.
_TOKENIZER_CONVERSATIONS = 500
NOTHING_TO_BEGIN_FROM = (
    "a model built from scratch has learnt nothing yet: set model.path to a local model folder, or begin with a stage "
    "that teaches it, for example stages.warm_start with demonstrators = { oracle = 1.0 }, or with data"
)


@dataclass(frozen=True)
class ModelConfig:
    """The policy's model: a local folder, or a tiny model built from scratch.

    Attributes:
        path: folder of a `transformers` causal language model; None builds the tiny one.
        chat_format: `auto`, a format's name, or a reference to one from outside.
        hidden_size, num_layers, vocab_size: of the tiny model.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        dtype: `float32` or `bfloat16`.
        max_context: most tokens of an episode; None is the model's limit, up to 4096.
        slots: most episodes whose keys and values are kept at once; None is `run.max_concurrency`.
    """

    path: str | None = None
    chat_format: str = "auto"
    hidden_size: Count = 128
    num_layers: Count = 2
    vocab_size: Count = 512
    device: str = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_context: Count | None = None
    slots: Count | None = None

    def check(self, *, teaches_from_nothing: bool) -> None:
        """Refuse a model that cannot be used.

        Args: teaches_from_nothing: whether the run has a stage that a model built from scratch can begin with.
        Raises: ConfigError, ModelError: what is wrong, and what to do.
        """
        device_of(self.device)
        if self.path is not None:
            model_folder.check_files(Path(self.path))
        elif not teaches_from_nothing:
            raise ConfigError(NOTHING_TO_BEGIN_FROM)


def load(config: ModelConfig, folder: str | Path) -> tuple[Any, Any]:
    """The model (evaluation mode, on its device) and tokenizer of a folder. Raises: ModelError."""
    return model_folder.load(folder, device=device_of(config.device), dtype=getattr(torch, config.dtype))


def build(config: ModelConfig, seed: int, conversations: Sequence[Sequence[Message]]) -> tuple[Any, Any]:
    """A tiny model and a tokenizer that is trained on conversations.

    Raises: ConfigError if there are no conversations.
    """
    if not conversations:
        raise ConfigError(NOTHING_TO_BEGIN_FROM)
    from agentrl.policy import tiny  # loads transformers

    texts = tiny.conversation_texts(list(c) for c in conversations[:_TOKENIZER_CONVERSATIONS])
    model, tokenizer = tiny.build_tiny(
        texts,
        seed=integer(seed, Purpose.MODEL),
        vocab_size=config.vocab_size,
        show_tools=False,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
    )
    return model.to(torch.device(device_of(config.device))), tokenizer  # type: ignore[arg-type]


def device_of(name: str) -> str:
    """The torch device of a name; `auto` is the first GPU, or the CPU where there is none.

    Raises: ConfigError if torch cannot use the device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"model.device = {name!r} cannot be used: {error}; use 'auto', 'cpu' or 'cuda'") from error
    return name
