"""The state of a model during an update: attention, precision, dropout, checkpointing. Owns its restoring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from agentrl.learning.kernels.norms import in_one_function

_FLAG, _FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"


def is_checkpointing(model: nn.Module) -> bool:
    """Whether layers of the model recompute their activations in the backward pass."""
    return any(getattr(module, _FLAG, False) for module in model.modules())


@contextmanager
def update_mode(
    model: Any,
    *,
    attention: str | None,
    matmul_precision: str,
    dropout: bool,
    gradient_checkpointing: bool,
    norms: Sequence[nn.Module] = (),
) -> Iterator[None]:
    """The model as it is during an update; restored after.

    Args:
        model: a `transformers` model.
        attention: attention implementation; None leaves the model's own.
        matmul_precision: of float32 products.
        dropout: whether the model's dropout is active. Sampling has none, so with it the first ratio is not 1.
        gradient_checkpointing: recompute the activations of each layer in the backward pass.
        norms: of `fast_norms`, computed by one function each.
    Raises: ValueError if the model has no layers that can be checkpointed.
    """
    with ExitStack() as stack:
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision(matmul_precision)
        if attention is not None:
            stack.callback(model.set_attn_implementation, model.config._attn_implementation)
            model.set_attn_implementation(attention)
        stack.enter_context(_training_flags(model))
        stack.enter_context(in_one_function(norms))
        model.train(dropout)
        stack.enter_context(_checkpointing(model, dropout=dropout, every_layer=gradient_checkpointing))
        yield


@contextmanager
def _training_flags(model: nn.Module) -> Iterator[None]:
    """Restore whether each module is in training mode."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def _checkpointing(model: nn.Module, *, dropout: bool, every_layer: bool) -> Iterator[None]:
    """Checkpoint the layers that were set to do so, or every layer.

    A layer of `transformers` checkpoints in training mode alone, which is also what turns its dropout on. So the
    layer itself is in training mode until its checkpointed part begins, and its submodules never are.
    """
    able = [module for module in model.modules() if hasattr(module, _FLAG)]
    if every_layer and not able:
        raise ValueError(
            f"{type(model).__name__} has no layers that can be checkpointed: gradient_checkpointing = false"
        )
    chosen = [module for module in able if every_layer or getattr(module, _FLAG)]
    before = [(module, vars(module).get(_FLAG), vars(module).get(_FUNCTION)) for module in chosen]
    for module in chosen:
        setattr(module, _FLAG, True)
        if not dropout:
            module.training = True
        function = vars(module).get(_FUNCTION) or partial(checkpoint, use_reentrant=False)
        setattr(module, _FUNCTION, function if dropout else partial(_without_dropout, module, function))
    try:
        yield
    finally:
        for module, *values in before:
            for name, value in zip((_FLAG, _FUNCTION), values, strict=True):
                if value is None:
                    vars(module).pop(name, None)
                else:
                    setattr(module, name, value)


def _without_dropout(module: nn.Module, function: Callable[..., Any], call: Callable[..., Any], *args: Any) -> Any:
    """Checkpoint a module's call, with the module in evaluation mode whenever the call is executed."""

    def quiet(*inner: Any) -> Any:
        training, module.training = module.training, False
        try:
            return call(*inner)
        finally:
            module.training = training

    return function(quiet, *args)
