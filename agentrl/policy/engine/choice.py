"""Which forward pass an engine uses for a model, and whether it is exact. Owns the choice, no arithmetic."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentrl.errors import ModelError
from agentrl.policy.engine import exact
from agentrl.policy.engine.forward_lean import LeanForward, supports
from agentrl.policy.engine.slots import Ids, KvSlots, OwnCaches

State = Literal["slots", "own", "stepwise"]
"""Where the state of an episode is: in `slots` of keys and values; in a cache of the model's `own` making, one for each
slot; in the same, which goes on one token at a time (`stepwise`)."""
STATES: tuple[State, ...] = get_args(State)
"""In the order in which they are tried."""

logger = logging.getLogger(__name__)


class Forward(Protocol):
    """A model's forward pass over the state that the engine keeps."""

    def __call__(self, rows: NDArray[np.int64], last: NDArray[np.int64], prefills: Sequence[tuple[int, Ids]]) -> Tensor:
        """Feed one token to each decoding slot, and new tokens to others.

        Args:
            rows: (B,) decoding slots.
            last: (B,) the token each of them is fed.
            prefills: (slot, new ids) of others; the ids follow what the slot holds.
        Returns: (B + P, V) float32 logits after each row's last token, decoding rows first.
        """
        ...


def forward_of(
    model: Any, kv: KvSlots, *, lean: bool, must: bool | None, state: State = "slots"
) -> tuple[Forward, bool]:
    """The forward pass, and whether it is exact.

    Args:
        kv: `OwnCaches` for another `state` than slots.
        lean: use the lean forward where the model's class is known.
        must: be exact; None is where it is known to be possible.
    Raises: ModelError if exactness is asked for and there is none, or the model cannot keep its state so.
    """
    if state != "slots" or not (lean and supports(model)):
        if must:
            raise _not_exact(f"{type(model).__name__} is run by its own forward pass, which is not made for it")
        if isinstance(kv, OwnCaches):
            from agentrl.policy.engine.forward_own import OwnForward

            return OwnForward(model, kv, stepwise=state == "stepwise"), False
        from agentrl.policy.engine.forward_hf import HfForward  # loads transformers

        return HfForward(model, kv), False
    on_cpu = model.device.type == "cpu"
    if must and not on_cpu:
        # What is found by trial holds for the kernels of a CPU: on an H200, bfloat16 passed the trial, and differed.
        raise _not_exact(f"the model is on {model.device}, and shapes that keep the bits are known for a CPU alone")
    if must is not False and on_cpu:
        try:
            forward = LeanForward(model, kv, exact=True)
            exact.prove(forward, kv, model.config.vocab_size)
            return forward, True
        except exact.NotExact as error:
            if must:
                raise _not_exact(str(error)) from error
    return LeanForward(model, kv), False


def forward_again(model: Any, kv: KvSlots, before: int, *, lean: bool, must: bool | None) -> tuple[Forward, bool]:
    """As `forward_of`, where the forward pass was exact until torch's number of threads changed: warns if none is now.

    Args: before: torch's number of threads then.
    Raises: ModelError if exactness is asked for and there is none.
    """
    found, is_exact = forward_of(model, kv, lean=lean, must=must)
    if not is_exact:
        logger.warning(
            "torch has %d threads now, and had %d: sampling is no longer exact, since no shapes were found that keep "
            "the bits. Set the threads before the model is loaded",
            torch.get_num_threads(),
            before,
        )
    return found, is_exact


def _not_exact(why: str) -> ModelError:
    return ModelError(
        f"no exact sampling on this machine: {why}. Leave out sampling.exact (exact= of LocalPolicy, --exact): the "
        "last bits of log-probabilities then depend on what else is sampled"
    )
