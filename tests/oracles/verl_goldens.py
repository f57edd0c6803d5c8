"""What verl 0.9.1 computes for `inputs.py`. Run by `make.sh` in an environment of its own, never by the tests."""

from __future__ import annotations

import types
from typing import Any

import inputs
import numpy as np
import torch
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights, compute_rollout_rejection_mask
from verl.utils.torch_functional import entropy_from_logits
from verl.workers.config import ActorConfig

F64 = torch.float64
LOSSES = {  # ours -> verl's loss, aggregation, bounds, bound of the dual clip, weights
    "grpo": ("vanilla", "seq-mean-token-mean", 0.2, 0.28, 1e9, None),
    "dapo": ("vanilla", "token-mean", 0.2, 0.28, 1e9, None),
    "dr_grpo": ("vanilla", "seq-mean-token-sum-norm", 0.2, 0.28, 1e9, None),
    "dual_clip": ("vanilla", "token-mean", 0.2, 0.28, 1.5, None),
    "gspo": ("gspo", "seq-mean-token-mean", 0.03, 0.04, 1e9, None),
    "cispo": ("cispo", "token-mean", 1.0, 0.25, 1e9, None),
    "tis": ("vanilla", "token-mean", 0.2, 0.28, 1e9, ("token", 2.0)),
    "sequence_tis": ("vanilla", "token-mean", 0.2, 0.28, 1e9, ("sequence", 2.0)),
    "icepop": ("vanilla", "token-mean", 0.2, 0.28, 1e9, ("token", "0.5_2.0")),
    "sequence_icepop": ("vanilla", "token-mean", 0.2, 0.28, 1e9, ("sequence", "0.1_9.0")),
    "token_mask": ("vanilla", "token-mean", 0.2, 0.28, 1e9, ("token_k1", "0.5_2.0")),
    "geometric_mask": ("vanilla", "token-mean", 0.2, 0.28, 1e9, ("seq_mean_k1", "0.8_1.25")),
}


def tensors(given: dict[str, Any]) -> types.SimpleNamespace:
    found = types.SimpleNamespace(**{key: torch.tensor(value, dtype=F64) for key, value in given.items()})
    found.logprobs.requires_grad_()
    return found


def with_gradient(loss: torch.Tensor, logprobs: torch.Tensor) -> dict[str, Any]:
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return {"loss": loss.item(), "gradient": gradient.tolist()}


def policy_case(name: str, number: int, given: dict[str, Any]) -> dict[str, Any]:
    kind, mode, low, high, dual, weighed = LOSSES[name]
    b = tensors(given)
    config = ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, clip_ratio=low, clip_ratio_low=low,
        clip_ratio_high=high, clip_ratio_c=dual, loss_agg_mode=mode,
    )  # fmt: skip
    weights = None
    if weighed and "_k1" in weighed[0]:
        weights, _ = compute_rollout_rejection_mask(b.old_logprobs - b.sampled_logprobs, b.mask, *weighed)
    elif weighed:
        weights, _ = compute_rollout_correction_weights(b.old_logprobs - b.sampled_logprobs, b.mask, *weighed)
    loss, _ = core_algos.get_policy_loss_fn(kind)(
        old_log_prob=b.old_logprobs, log_prob=b.logprobs, advantages=b.advantages[:, None].expand_as(b.logprobs),
        response_mask=b.mask, loss_agg_mode=mode, config=config, rollout_is_weights=weights,
    )  # fmt: skip
    return {"kind": "policy", "name": name, "batch": number, **with_gradient(loss, b.logprobs)}


def other_losses(number: int, given: dict[str, Any]) -> list[dict[str, Any]]:
    cases = []
    for name in ("k1", "k2", "k3", "k1+", "k3+"):
        b = tensors(given)
        kl = core_algos.kl_penalty(b.logprobs, b.reference_logprobs, name)
        loss = core_algos.agg_loss(kl, b.mask, "token-mean")
        cases.append({"kind": "kl", "name": name, "batch": number, **with_gradient(loss, b.logprobs)})
    for clip in (0.1, 1e9):
        b = tensors(given)
        loss, _ = core_algos.compute_value_loss(
            vpreds=b.logprobs, returns=b.reference_logprobs, values=b.old_logprobs, response_mask=b.mask,
            cliprange_value=clip, loss_agg_mode="token-mean",
        )  # fmt: skip
        cases.append({"kind": "value", "clip": clip, "batch": number, **with_gradient(loss, b.logprobs)})
    return cases


def entropy_cases() -> list[dict[str, Any]]:
    logits = torch.tensor(
        inputs.float32(5 * np.random.default_rng(9).normal(size=(7, 11))), dtype=F64, requires_grad=True
    )
    return [{"kind": "entropy", "logits": logits.tolist(), **with_gradient(entropy_from_logits(logits).sum(), logits)}]


def estimators(groups: list[list[float]]) -> list[dict[str, Any]]:
    """Advantages of a step in which every episode has one token, so that tokens and episodes weigh the same."""
    flat = torch.tensor([value for group in groups for value in group], dtype=F64)[:, None]
    index = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    mask = torch.ones_like(flat)
    greedy = torch.tensor(inputs.float32(np.arange(len(groups)) * 0.5), dtype=F64)
    plain = types.SimpleNamespace(gamma=1.0)
    second = flat.flip(0)
    parts = types.SimpleNamespace(get=lambda key, default=None: {"gdpo_reward_keys": ["one", "two"]}.get(key, default))
    batch = {"prompts": torch.ones(len(flat), 1), "attention_mask": torch.ones(len(flat), 2, dtype=torch.long)}
    arrays = {"one": flat[:, 0].numpy(), "two": second[:, 0].numpy()}
    found = {
        "grpo": core_algos.compute_grpo_outcome_advantage(flat.clone(), mask, index)[0],
        "dr_grpo": core_algos.compute_grpo_outcome_advantage(flat.clone(), mask, index, norm_adv_by_std_in_grpo=False)[
            0
        ],
        "rloo": core_algos.compute_rloo_outcome_advantage(flat.clone(), mask, index)[0],
        "reinforce_plus_plus": core_algos.compute_reinforce_plus_plus_outcome_advantage(flat, mask, config=plain)[0],
        "reinforce_plus_plus_baseline": core_algos.compute_reinforce_plus_plus_baseline_outcome_advantage(
            flat.clone(), mask, index
        )[0],
        "remax": core_algos.compute_remax_outcome_advantage(flat, greedy[index], mask)[0],
        "gdpo": core_algos.compute_gdpo_outcome_advantage(
            flat, mask, index, config=parts, non_tensor_batch=arrays, batch=batch
        )[0],
    }
    given = {"kind": "advantages", "returns": groups, "greedy": greedy.tolist()}
    return [
        {**given, "name": name, "advantages": values[:, 0].tolist()}
        for name, values in found.items()
        if name != "gdpo" or flat.abs().max() < 1e3  # verl's parts are float32, too rough for returns near -3e4
    ]


def gae_cases() -> list[dict[str, Any]]:
    cases = []
    for walk in inputs.walks():
        rewards, values = (torch.tensor(walk[key], dtype=F64) for key in ("rewards", "values"))
        advantages, returns = core_algos.compute_gae_advantage_return(
            rewards, values, torch.ones_like(rewards), walk["gamma"], walk["lam"]
        )
        cases.append({"kind": "gae", **walk, "whitened": advantages.tolist(), "returns": returns.tolist()})
    return cases


if __name__ == "__main__":
    cases = []
    for number, given in enumerate(inputs.batches()):
        cases += [policy_case(name, number, given) for name in LOSSES]
        cases += other_losses(number, given)
    cases += entropy_cases() + gae_cases()
    for groups in inputs.returns():
        cases += estimators(groups)
    inputs.write("losses_verl.json", cases)
