"""Which model a run has: a checkpoint's, a folder's, or a tiny one built for the run's conversations.

Its files belong to `agentrl.policy.model_folder`, the models of an update to `agentrl.learning.models`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import torch

from agentrl.config import Count, Fraction, Positive, Whole
from agentrl.errors import ConfigError
from agentrl.learning.parallel.sharded import layers_of
from agentrl.messages import Message
from agentrl.policy import adapters, model_folder, precision
from agentrl.seeds import Purpose, integer

logger = logging.getLogger(__name__)

# Enough conversations for every merge of a small vocabulary; more would only cost time.
_TOKENIZER_CONVERSATIONS = 500
NOTHING_TO_BEGIN_FROM = (
    "a model built from scratch has learnt nothing yet: set model.path to a local model folder, or begin with a stage "
    "that teaches it, for example stages.warm_start with demonstrators = { oracle = 1.0 }, or with data"
)


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters that train instead of the model's own weights.

    Attributes:
        rank: of the adapters; 0 trains the model itself.
        alpha: the adapters' output is scaled by `alpha / rank`.
        dropout: of the adapters' input; active only with `learner.dropout`.
        targets: linear layers that get adapters, by the ends of their names; none means all but the head.
    """

    rank: Whole = 0
    alpha: Positive = 32.0
    dropout: Fraction = 0.0
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """The policy's model: a local folder, or a tiny model built from scratch.

    Attributes:
        path: folder of a `transformers` causal language model; None builds the tiny one.
        chat_format: `auto`, a format's name, or a reference to one from outside.
        chat_template: Jinja file that replaces the folder's chat template; the run's models are saved with it.
        hidden_size, num_layers, vocab_size: of the tiny model.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        dtype: `float32`, `bfloat16`, or `auto`: bfloat16 on a CPU whose products are measured to be faster in it, and
            on a GPU that has them, for hidden states of 512 numbers and more. A run records the type that it got.
        max_context: most tokens of an episode; None is the model's limit, up to 4096.
        slots: most episodes whose keys and values are kept at once; None is `run.max_concurrency`.
        train_layers: train only this many of the last layers; None trains all.
        train_weights: train only weights with such a name (`*.mlp.*`); none trains all. Together with `train_layers`
            a weight trains that either names.
        lora: adapters that train instead.
    """

    path: str | None = None
    chat_format: str = "auto"
    chat_template: str | None = None
    hidden_size: Count = 128
    num_layers: Count = 2
    vocab_size: Count = 512
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    max_context: Count | None = None
    slots: Count | None = None
    train_layers: Count | None = None
    train_weights: tuple[str, ...] = ()
    lora: LoRA = LoRA()

    def check(self, *, teaches_from_nothing: bool) -> None:
        """Refuse a model that cannot be used.

        Args: teaches_from_nothing: whether the run has a stage that a model built from scratch can begin with.
        Raises: ConfigError, ModelError: what is wrong, and what to do.
        """
        device_of(self.device)
        if self.lora.rank and (self.train_layers or self.train_weights):
            raise ConfigError("model.lora trains adapters alone: leave out model.train_layers and model.train_weights")
        if self.lora.rank and self.path is None:
            raise ConfigError(
                "model.lora needs model.path: a tiny model has no weights worth keeping. Set model.path, or "
                "model.lora.rank = 0"
            )
        if self.chat_template is not None:
            _template(self.chat_template, self.path)
        if self.path is not None:
            model_folder.check_files(Path(self.path))
        elif not teaches_from_nothing:
            raise ConfigError(NOTHING_TO_BEGIN_FROM)


def settled(config: ModelConfig) -> ModelConfig:
    """The settings with the type of the weights decided, where they leave it open.

    Raises: ModelError if the folder's config.json cannot be read.
    """
    if config.dtype != "auto":
        return config
    width = config.hidden_size if config.path is None else model_folder.width_of(config.path)
    choice = precision.choose(width, device_of(config.device))
    logger.info("model.dtype = %s: %s", choice.dtype, choice.why)
    return replace(config, dtype=choice.dtype)


def load(config: ModelConfig, folder: str | Path, seed: int = 0) -> tuple[Any, Any]:
    """The model (evaluation mode, on its device) and tokenizer of a folder.

    The chat template of the settings belongs to the folder that the settings name; a checkpoint has it already.

    Args: seed: of new adapters.
    Raises: ModelError; ConfigError if the model has not what the settings train.
    """
    path = Path(folder).resolve()
    model, tokenizer = model_folder.load(path, device=device_of(config.device), dtype=getattr(torch, config.dtype))
    if config.chat_template is not None and config.path is not None and path == Path(config.path).resolve():
        tokenizer.chat_template = _template(config.chat_template, config.path)
    if config.lora.rank and not adapters.has_adapters(model):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(integer(seed, Purpose.MODEL))
            lora = config.lora
            adapters.add(model, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets)
    freeze(config, model)
    return model, tokenizer


def freeze(config: ModelConfig, model: Any) -> None:
    """Let only those weights require a gradient that the settings train.

    Raises: ConfigError if there are none, or the model's layers cannot be found.
    """
    if not (config.train_layers or config.train_weights):
        return
    chosen: set[int] = set()
    if config.train_layers:
        layers = layers_of(model)
        if layers is None or config.train_layers > len(layers):
            found = "no list of layers" if layers is None else f"{len(layers)} layers"
            raise ConfigError(f"model.train_layers = {config.train_layers}: {type(model).__name__} has {found}")
        chosen = {id(p) for layer in layers[-config.train_layers :] for p in layer.parameters()}
    for name, parameter in model.named_parameters():
        named = any(fnmatchcase(name, pattern) for pattern in config.train_weights)
        parameter.requires_grad_(named or id(parameter) in chosen)
    if not any(p.requires_grad for p in model.parameters()):
        names = [name for name, _ in model.named_parameters()]
        raise ConfigError(
            f"model.train_weights = {list(config.train_weights)} names no weight; there are {', '.join(names[:3])}, "
            f"… {names[-1]}"
        )


def _template(file: str, model: str | None) -> str:
    """The text of a template's file. Raises: ConfigError if there is no such file, or no model that it is for."""
    if model is None:
        raise ConfigError("model.chat_template goes with model.path: the tiny model has a template of its own")
    try:
        return Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"model.chat_template = {file!r} cannot be read: {error}") from error


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
    freeze(config, model)
    model.to(getattr(torch, config.dtype))
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
