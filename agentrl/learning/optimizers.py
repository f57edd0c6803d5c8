"""Optimisers and learning-rate schedules. Owns which parameter is updated by which rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from agentrl.config import NotNegative, Whole
from agentrl.config.field_checks import check_fields
from agentrl.learning.masters import MasterWeights

OptimizerName = Literal["adamw", "muon"]
ScheduleName = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rate over the updates of a stage, as a fraction of its peak.

    Attributes:
        name: what follows the warm-up: `constant`, or an anneal along a line or half a cosine.
        warmup_steps: updates over which the rate rises from 0 to its peak, in a line.
        final: fraction of the peak at the end of the anneal.
    """

    name: ScheduleName = "constant"
    warmup_steps: Whole = 0
    final: NotNegative = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    def fraction(self, step: int, total_steps: int | None = None) -> float:
        """The fraction for the update numbered `step`, from 0.

        Args: total_steps: updates of the stage, warm-up included.
        Raises: ValueError if the schedule anneals and has no length.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.name == "constant":
            return 1.0
        if not total_steps:
            raise ValueError(f"schedule {self.name!r} needs total_steps, got {total_steps}")
        span = max(1, total_steps - self.warmup_steps)
        done = min(1.0, (step - self.warmup_steps) / span)
        left = 1.0 - done if self.name == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return self.final + (1.0 - self.final) * left


def make_optimizers(
    model: nn.Module,
    name: OptimizerName,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    adamw_lr: float,
    head: nn.Module | None = None,
    masters: MasterWeights | None = None,
) -> list[torch.optim.Optimizer]:
    """The optimisers of a model; together they own every trainable parameter once.

    Args:
        name: `adamw`, or `muon` for the matrices inside the layers with AdamW for the rest.
        lr: peak rate of the named optimiser.
        adamw_lr: peak rate of AdamW where Muon has the matrices.
        head: a value head, which AdamW updates.
        masters: the float32 copies that are updated in place of weights of lower precision.
    Source: Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; AdamW: Loshchilov and
        Hutter 2019, arXiv:1711.05101.
    """
    of = masters.of if masters is not None else lambda p: p
    parameters = [of(p) for p in model.parameters() if p.requires_grad]
    of_head = [] if head is None else list(head.parameters())
    if not parameters:
        raise ValueError("the model has no parameter that requires a gradient: nothing can train")
    if name == "adamw":
        return [_adamw([*parameters, *of_head], lr, betas, weight_decay)]
    if name != "muon":
        raise ValueError(f"optimizer must be 'adamw' or 'muon', got {name!r}")
    outer = {id(of(p)) for p in _embedding_parameters(model)}
    matrices = [p for p in parameters if p.ndim == 2 and id(p) not in outer]
    rest = [p for p in parameters if p.ndim != 2 or id(p) in outer]
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        kind = Float32Muon if emulates_bfloat16(matrices[0].device) else torch.optim.Muon
        optimizers.append(kind(matrices, lr=lr, weight_decay=weight_decay))
    if rest or of_head:
        optimizers.append(_adamw([*rest, *of_head], adamw_lr, betas, weight_decay))
    return optimizers


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are emulated there: on CPUs without an instruction for them."""
    has_kernels = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return device.type == "cpu" and not (has_kernels and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Float32Muon(torch.optim.Muon):
    """Muon, with the products of its Newton-Schulz iteration in float32.

    torch computes them in bfloat16, which a CPU without such products emulates: at 128 x 128 in 20 times the time, so
    that they were 60% of an update of a small model.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every matrix that has a gradient. Args: closure: computes the loss and the gradients anew."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update(matrix, matrix.grad, group)
        return loss

    def _update(self, matrix: torch.Tensor, gradient: torch.Tensor, group: Mapping[str, Any]) -> None:
        lr, momentum = group["lr"], group["momentum"]
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        update = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
        update = orthogonal(update.float(), group["ns_coefficients"], group["ns_steps"], group["eps"])
        matrix.mul_(1 - lr * group["weight_decay"])
        matrix.add_(update, alpha=-lr * math.sqrt(max(1, matrix.size(0) / matrix.size(1))))


def orthogonal(matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> torch.Tensor:
    """The nearest orthogonal matrix, roughly: singular values end between 0.5 and 1.5.

    X <- a X + (b A + c A A) X with A = X X^T, from X = matrix / ||matrix||.

    Args: matrix: (rows, columns). coefficients: a, b and c. eps: least norm.
    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    """
    a, b, c = coefficients
    is_tall = matrix.size(0) > matrix.size(1)
    found = matrix.T if is_tall else matrix
    found = found / found.norm().clamp(min=eps)
    for _ in range(steps):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if is_tall else found


def _embedding_parameters(model: Any) -> list[nn.Parameter]:
    """Weights of embeddings and of the head: two-dimensional, but look-ups rather than maps."""
    modules = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return [p for module in (*modules, *([head] if head is not None else [])) for p in module.parameters()]


def _adamw(
    parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW that decays matrices and leaves gains and biases alone."""
    groups: list[dict[str, Any]] = []
    kinds: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in parameters:  # parts of weights and whole ones cannot be updated in one call
        kinds.setdefault((p.ndim < 2, isinstance(p, DTensor)), []).append(p)
    # Parts first: a value head comes after the model's weights, as it does where all are whole.
    for (is_vector, _), members in sorted(kinds.items(), key=lambda kind: (kind[0][0], not kind[0][1])):
        groups.append({"params": members, "weight_decay": 0.0 if is_vector else weight_decay})
    return torch.optim.AdamW(groups, lr=lr, betas=betas, foreach=True)


def load_states(optimizers: Sequence[torch.optim.Optimizer], states: Sequence[Mapping[str, Any]]) -> None:
    """Continue from the `state_dict` of each optimizer, also where the same parameters are grouped in another way.

    Processes that share the weights have groups of their own for parts of weights.

    Raises: ValueError if the states are of other optimizers.
    """
    if len(states) != len(optimizers):
        raise ValueError(
            f"the state holds {len(states)} optimisers, this learner has {len(optimizers)}: "
            "resume with the same learner.optimizer"
        )
    for optimizer, saved in zip(optimizers, states, strict=True):
        own, groups = optimizer.state_dict()["param_groups"], saved["param_groups"]
        counts, found = ([len(group["params"]) for group in of] for of in (own, groups))
        regrouped = counts != found and sum(counts) == sum(found)
        optimizer.load_state_dict({"state": saved["state"], "param_groups": own if regrouped else groups})


def set_lr(optimizers: Iterable[torch.optim.Optimizer], fraction: float) -> None:
    """Set every group to `fraction` of its peak, which is kept in the group."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("peak_lr", group["lr"]) * fraction
