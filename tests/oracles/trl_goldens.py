"""What trl 1.16.0 computes for `inputs.py`. Run by `make.sh` in an environment of its own, never by the tests.

TRL's losses are methods of trainers; they are called on a stand-in that has what they read.
"""

from __future__ import annotations

import contextlib
import json
import types
from collections import defaultdict
from typing import Any

import inputs
import numpy as np
import torch
import trl.trainer.dpo_trainer as dpo_module
from transformers import Qwen3Config, Qwen3ForCausalLM
from trl import DPOTrainer, GRPOTrainer, RewardTrainer

F64 = torch.float64
LOSSES = {  # ours and the aggregation -> TRL's loss type, level, bounds, further settings
    "grpo": ("grpo", "token", 0.2, 0.28, {}),
    "bnpo": ("bnpo", "token", 0.2, 0.28, {}),
    "dapo": ("dapo", "token", 0.2, 0.28, {}),
    "dr_grpo": ("dr_grpo", "token", 0.2, 0.28, {}),
    "gspo": ("grpo", "sequence", 0.03, 0.04, {}),
    "cispo": ("cispo", "token", 0.2, 1.25, {}),
    "grpo_kl": ("grpo", "token", 0.2, 0.28, {"beta": 0.04}),
    "grpo_kl_ratio": ("grpo", "token", 0.2, 0.28, {"beta": 0.04, "corrected": True}),
    "dual_clip": ("dapo", "token", 0.2, 0.28, {"delta": 1.5}),
    "dapo_tis": ("dapo", "token", 0.2, 0.28, {"weights": "tis"}),
    "dapo_icepop": ("dapo", "token", 0.2, 0.28, {"weights": "icepop"}),
}
UPDATES = ("grpo", "bnpo", "dapo", "dr_grpo", "gspo", "cispo")


class Accelerator:
    """One process."""

    num_processes, device, sync_gradients = 1, "cpu", True

    def gather(self, x: Any) -> Any:
        return x

    gather_for_metrics = gather

    def reduce(self, x: Any, reduction: str = "sum") -> Any:
        return x


def grpo_trainer(name: str, max_tokens: int) -> Any:
    kind, level, low, high, more = LOSSES[name]
    weighs = "weights" in more
    return types.SimpleNamespace(
        loss_type=kind, importance_sampling_level=level, epsilon_low=low, epsilon_high=high, beta=more.get("beta", 0.0),
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, aux_loss_enabled=False, accelerator=Accelerator(),
        use_vllm=weighs, vllm_importance_sampling_correction=weighs, current_gradient_accumulation_steps=1,
        max_completion_length=max_tokens, _entropy_bonus_enabled=False, use_adaptive_entropy=False, entropy_coef=0.0,
        model=types.SimpleNamespace(training=True), _metrics={"train": defaultdict(list)},
        args=types.SimpleNamespace(
            delta=more.get("delta"), use_bias_correction_kl=more.get("corrected", False), steps_per_generation=1
        ),
    )  # fmt: skip


def grpo_loss(name: str, logprobs: Any, given: dict[str, Any], max_tokens: int) -> tuple[torch.Tensor, dict[str, Any]]:
    trainer = grpo_trainer(name, max_tokens)
    trainer._get_per_token_logps_and_entropies = lambda *a, **k: (logprobs, torch.zeros_like(logprobs), None)
    count, length = logprobs.shape
    ids = torch.zeros(count, length, dtype=torch.long)
    mask = torch.tensor(given["mask"], dtype=F64)
    old, sampled = (torch.tensor(given[key], dtype=F64) for key in ("old_logprobs", "sampled_logprobs"))
    own = {
        "prompt_ids": ids[:, :2], "prompt_mask": torch.ones(count, 2), "completion_ids": ids,
        "completion_mask": torch.ones(count, length), "tool_mask": mask,
        "advantages": torch.tensor(given["advantages"], dtype=F64), "old_per_token_logps": old,
        "ref_per_token_logps": torch.tensor(given["reference_logprobs"], dtype=F64), "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    ratio = (old - sampled).exp() * mask
    weights = LOSSES[name][4].get("weights")
    if weights == "tis":
        own["importance_sampling_ratio"] = ratio.clamp(max=2.0)
    if weights == "icepop":
        own["importance_sampling_ratio"] = torch.where((ratio < 0.5) | (ratio > 2.0), torch.zeros_like(ratio), ratio)
    loss = GRPOTrainer._compute_loss(trainer, None, own)
    return loss, {key: values[-1] for key, values in trainer._metrics["train"].items()}


def loss_cases() -> list[dict[str, Any]]:
    cases = []
    for number, given in enumerate(inputs.batches()):
        for name in LOSSES:
            logprobs = torch.tensor(given["logprobs"], dtype=F64, requires_grad=True)
            loss, metrics = grpo_loss(name, logprobs, given, inputs.MAX_TOKENS)
            (gradient,) = torch.autograd.grad(loss, logprobs)
            clipped = metrics.get("clip_ratio/region_mean")
            cases.append(
                {"kind": "policy", "name": name, "batch": number, "loss": loss.item(), "gradient": gradient.tolist()}
                | ({"clip_fraction": clipped} if clipped is not None else {})
            )
    return cases


class Answers:
    """A model that answers a forward pass of the DPO trainer."""

    training = True

    def __init__(self, log_probs: Any) -> None:
        self.log_probs = log_probs

    def __call__(self, **given: Any) -> Any:
        found = self.log_probs(given["input_ids"]) if callable(self.log_probs) else self.log_probs
        zeros = torch.zeros_like(found)
        mask = torch.tensor(self.mask, dtype=F64) if hasattr(self, "mask") else 1.0
        return types.SimpleNamespace(
            log_probs=found * mask, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), logits=None
        )


def dpo_loss(kind: str, policy: Answers, reference: Answers, mask: Any, beta: float, smoothing: float, ids: Any) -> Any:
    dpo_module.disable_gradient_checkpointing = lambda *a, **k: contextlib.nullcontext()
    trainer = types.SimpleNamespace(
        model=policy, ref_model=reference, accelerator=Accelerator(), aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=False, args=types.SimpleNamespace(gradient_checkpointing_kwargs=None),
        f_divergence_type="reverse_kl", f_alpha_divergence_coef=0.5, loss_types=[kind], loss_weights=[1.0], beta=beta,
        label_smoothing=smoothing, use_weighting=False, router_aux_loss_coef=0.0, _metrics={"train": defaultdict(list)},
        _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask}
    return DPOTrainer._compute_loss(trainer, policy, given, False)


def pair_cases() -> list[dict[str, Any]]:
    cases = []
    for seed in range(3):
        given = inputs.pairs(seed)
        mask = torch.tensor(given["mask"])
        whole = torch.cat([torch.zeros(6, 1, dtype=torch.long), mask], 1)
        ids = torch.ones(6, mask.shape[1] + 1, dtype=torch.long)
        for kind, smoothing in (("sigmoid", 0.0), ("ipo", 0.0), ("robust", 0.1)):
            logprobs = torch.tensor(given["logprobs"], dtype=F64, requires_grad=True)
            policy, reference = Answers(logprobs), Answers(torch.tensor(given["reference_logprobs"], dtype=F64))
            policy.mask = reference.mask = given["mask"]
            loss = dpo_loss(kind, policy, reference, whole, 0.1, smoothing, ids)
            (gradient,) = torch.autograd.grad(loss, logprobs)
            cases.append(
                {"kind": "pair", "name": kind, "seed": seed, "loss": loss.item(), "gradient": gradient.tolist()}
            )
        for center, with_margin in ((0.0, False), (0.01, False), (0.0, True)):
            cases.append(reward_model_case(given, seed, center, with_margin))
    return cases


def reward_model_case(given: dict[str, Any], seed: int, center: float, with_margin: bool) -> dict[str, Any]:
    scores = torch.tensor(given["scores"], dtype=F64, requires_grad=True)
    settings = types.SimpleNamespace(center_rewards_coefficient=center or None)
    trainer = types.SimpleNamespace(
        model=types.SimpleNamespace(training=True), args=settings,
        accelerator=Accelerator(), _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    rows = {"attention_mask": torch.ones(6, 2)}
    if with_margin:
        rows["margin"] = torch.tensor(given["margins"], dtype=F64)
    loss = RewardTrainer.compute_loss(trainer, lambda **k: types.SimpleNamespace(logits=scores[:, None]), rows)
    (gradient,) = torch.autograd.grad(loss, scores)
    found = {"kind": "reward_model", "seed": seed, "center": center, "margin": with_margin}
    return found | {"loss": loss.item(), "gradient": gradient.tolist()}


def advantage_cases() -> list[dict[str, Any]]:
    """TRL's own expression for advantages stands in the middle of a method; these are its lines, for one process."""
    cases = []
    for groups in inputs.returns():
        found = []
        for group in groups:
            rewards = torch.tensor(group, dtype=F64)
            found.append(((rewards - rewards.mean()) / (rewards.std() + 1e-4)).tolist())
        cases.append({"kind": "advantages", "name": "grpo", "returns": groups, "advantages": found})
    return cases


VOCABULARY, TEMPERATURE, MAX_SAMPLED = 48, 0.8, 24


def tiny_model() -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=256, initializer_range=0.3, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).to(F64).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.float().double())
    return model


def logprobs_of(model: Any, ids: Any, attention: Any) -> Any:
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=attention, position_ids=positions).logits[:, :-1] / TEMPERATURE
    return torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0]


def completions(episodes: list[dict[str, Any]]) -> list[tuple[list[int], list[int], list[int], list[float]]]:
    """(prompt, completion, its mask, logprobs of the sampler) of each episode: observations are masked out."""
    found = []
    for episode in episodes:
        prompt = episode["turns"][0]["prompt_ids"]
        completion: list[int] = []
        mask: list[int] = []
        old: list[float] = []
        for turn in episode["turns"]:
            seen = turn["prompt_ids"][len(prompt) + len(completion) :]
            completion += [*seen, *turn["token_ids"]]
            mask += [0] * len(seen) + [1] * len(turn["token_ids"])
            old += [0.0] * len(seen) + turn["logprobs"]
        found.append((prompt, completion, mask, old))
    return found


def update_of(name: str, episodes: list[dict[str, Any]]) -> Any:
    """The model after the gradient of one GRPO-like loss."""
    model, rows = tiny_model(), completions(episodes)
    ids, attention, first = padded([(prompt, completion) for prompt, completion, _, _ in rows])
    length = ids.shape[1] - first
    given = {
        "mask": [[*mask, *[0] * (length - len(mask))] for _, _, mask, _ in rows],
        "old_logprobs": [[*old, *[0.0] * (length - len(old))] for _, _, _, old in rows],
        "advantages": advantages_of(episodes),
    }
    given["sampled_logprobs"] = given["reference_logprobs"] = given["old_logprobs"]
    logprobs = logprobs_of(model, ids, attention)[:, first - 1 :]
    grpo_loss(name, logprobs, given, MAX_SAMPLED)[0].backward()
    return model


def padded(rows: list[tuple[list[int], list[int]]]) -> tuple[Any, Any, int]:
    """(B, P + C) ids with the prompts right- and the completions left-aligned, the attention mask, and P."""
    first = max(len(prompt) for prompt, _ in rows)
    length = max(len(completion) for _, completion in rows)
    ids = torch.zeros(len(rows), first + length, dtype=torch.long)
    attention = torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(rows):
        places = slice(first - len(prompt), first + len(completion))
        ids[row, places] = torch.tensor([*prompt, *completion])
        attention[row, places] = 1
    return ids, attention, first


def advantages_of(episodes: list[dict[str, Any]]) -> list[float]:
    rewards = defaultdict(list)
    for episode in episodes:
        rewards[episode["group"]].append(episode["reward"])
    found = []
    for episode in episodes:
        own = torch.tensor(rewards[episode["group"]], dtype=F64)
        found.append(((episode["reward"] - own.mean()) / (own.std() + 1e-6)).item())
    return found


def dpo_update(episodes: list[dict[str, Any]]) -> Any:
    """The model after the gradient of DPO; the reference is the model with its weights halved.

    The pairs are the first episode over the second of each group.
    """
    rows = completions(episodes)
    groups = [[i for i, e in enumerate(episodes) if e["group"] == g] for g in sorted({e["group"] for e in episodes})]
    order = [group[0] for group in groups] + [group[1] for group in groups]
    chosen = [rows[i] for i in order]
    ids, attention, first = padded([(prompt, completion) for prompt, completion, _, _ in chosen])
    mask = torch.zeros_like(ids)
    for row, (_, _, own, _) in enumerate(chosen):
        mask[row, first : first + len(own)] = torch.tensor(own)
    model, reference = tiny_model(), tiny_model()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(0.5)
    policy, other = (Answers(lambda _, m=m: logprobs_of(m, ids, attention)) for m in (model, reference))
    policy.mask = other.mask = mask[:, 1:].tolist()
    dpo_loss("sigmoid", policy, other, mask, 0.1, 0.0, ids).backward()
    return model


def write_updates() -> None:
    episodes = inputs.episodes(VOCABULARY)
    model = tiny_model()
    arrays: dict[str, Any] = {
        f"weights/{n}": p.detach().numpy().astype(np.float32) for n, p in model.named_parameters()
    }
    made = {name: update_of(name, episodes) for name in UPDATES} | {"dpo": dpo_update(episodes)}
    for name, trained in made.items():
        arrays |= {f"{name}/gradient/{n}": p.grad.numpy().astype(np.float32) for n, p in trained.named_parameters()}
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        torch.optim.AdamW(trained.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0).step()
        arrays |= {f"{name}/after/{n}": p.detach().numpy().astype(np.float32) for n, p in trained.named_parameters()}
    settings = {"config": model.config.to_diff_dict(), "temperature": TEMPERATURE, "max_tokens": MAX_SAMPLED}
    arrays["about"] = np.array(json.dumps({**settings, "episodes": episodes}))
    np.savez_compressed(inputs.HERE / "update_trl.npz", **arrays)
    print(f"update_trl.npz: {len(made)} updates")


if __name__ == "__main__":
    inputs.write("losses_trl.json", [*loss_cases(), *pair_cases(), *advantage_cases()])
    write_updates()
