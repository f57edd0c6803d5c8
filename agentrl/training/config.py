"""The configuration of `agentrl train`: one dataclass, one TOML file. Owns defaults, not behaviour.

The defaults are the tested run: the quickstart is `TrainConfig(env=EnvConfig(id="agentrl/Shop-v0"))`
with its warm start switched on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentrl.config import Count, NotNegative, Positive, Share, Whole


@dataclass(frozen=True)
class EnvConfig:
    """Which environment, and how it is made.

    Attributes:
        id: a registered id, `package.module:Class`, or `./file.py:Class`.
        max_turns: overrides the environment's own limit.
        kwargs: given to its constructor.
        train_split, eval_split: names of the environment's task splits.
    """

    id: str
    max_turns: Count | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    train_split: str = "train"
    eval_split: str = "eval"


@dataclass(frozen=True)
class ModelConfig:
    """The policy's model: a local folder, or a tiny model built from scratch.

    Attributes:
        path: folder of a `transformers` causal language model; None builds the tiny one.
        chat_format: `auto`, `hermes` or `llama3_json`.
        hidden_size, num_layers, vocab_size: of the tiny model.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        dtype: `float32` or `bfloat16`.
        max_context: most tokens of an episode; None is the model's limit, up to 4096.
        slots: most episodes whose keys and values are kept at once; None is `train.max_concurrency`.
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


@dataclass(frozen=True)
class WarmStartConfig:
    """Supervised training on demonstrations that the environment's own scripts produce.

    Attributes:
        demonstrators: share of each of the environment's demonstrator methods; empty for no warm start.
        num_episodes: demonstrations, on the train split.
        epochs: passes over them.
        batch_episodes: demonstrations of one update.
        lr: peak learning rate.
        optimizer: `muon` (Jordan et al. 2024) or `adamw`.
        checkpoint_every: updates between checkpoints.
    """

    demonstrators: Mapping[str, Positive] = field(default_factory=dict)
    num_episodes: Count = 8000
    epochs: Count = 2
    batch_episodes: Count = 32
    lr: Positive = 0.02
    optimizer: Literal["muon", "adamw"] = "muon"
    checkpoint_every: Count = 50


@dataclass(frozen=True)
class RLConfig:
    """Group-relative policy optimisation (GRPO) from environment reward.

    Attributes:
        steps: updates of the policy; 0 stops after the warm start.
        prompts_per_step, group_size: tasks of one step, and episodes of each task.
        lr: peak learning rate (AdamW), annealed to `lr * lr_final`.
        clip_low, clip_high: bounds of the probability ratio; a higher upper bound is DAPO's clip-higher.
        kl_coef: weight of the KL penalty to the model at the start of RL; 0 keeps no reference model.
        advantage: `grpo`, `dr_grpo`, `rloo`, `reinforce_plus_plus`.
        aggregation: `token`, `sequence` or `constant`: what a token's coefficient is.
        skip_zero_advantage: leave out groups whose rewards are all equal.
        dynamic_sampling: sample further groups until `prompts_per_step` of them differ in reward, at
            most `dynamic_sampling_max` times as many (DAPO).
        temperature, top_p, max_tokens: how training episodes are sampled.
        max_concurrency: episodes under way at once.
    """

    steps: Whole = 40
    prompts_per_step: Count = 16
    group_size: Count = 8
    lr: Positive = 7e-4
    lr_final: NotNegative = 0.1
    warmup_steps: Whole = 0
    clip_low: NotNegative = 0.2
    clip_high: NotNegative = 0.28
    kl_coef: NotNegative = 0.0
    entropy_coef: NotNegative = 0.0
    max_grad_norm: NotNegative = 1.0
    advantage: Literal["grpo", "dr_grpo", "rloo", "reinforce_plus_plus"] = "grpo"
    aggregation: Literal["token", "sequence", "constant"] = "token"
    num_epochs: Count = 1
    num_minibatches: Count = 1
    skip_zero_advantage: bool = True
    dynamic_sampling: bool = False
    dynamic_sampling_max: Count = 3
    temperature: Positive = 1.0
    top_p: Share = 1.0
    max_tokens: Count = 64
    max_concurrency: Count = 128


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation on held-out tasks: before, every `every` steps, and after.

    Attributes:
        every: RL steps between evaluations; 0 for none in between.
        num_tasks: held-out tasks of an evaluation in between.
        final_num_tasks: held-out tasks of the before and after tables.
        final_trials: sampled episodes per task in those tables.
    """

    every: Whole = 10
    num_tasks: Count = 64
    final_num_tasks: Count = 200
    final_trials: Count = 1


@dataclass(frozen=True)
class RunConfig:
    """Housekeeping.

    Attributes:
        checkpoint_every: RL steps between checkpoints.
        keep_checkpoints: how many stay.
        threads: torch threads; 0 leaves torch's choice.
        record_trajectories: write every training episode to the store.
        tensorboard: write TensorBoard events beside metrics.jsonl.
    """

    checkpoint_every: Count = 10
    keep_checkpoints: Count = 2
    threads: Whole = 1
    record_trajectories: bool = True
    tensorboard: bool = True


@dataclass(frozen=True)
class TrainConfig:
    """Everything `agentrl train` needs."""

    env: EnvConfig
    model: ModelConfig = ModelConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    train: RLConfig = RLConfig()
    eval: EvalConfig = EvalConfig()
    run: RunConfig = RunConfig()
    seed: Whole = 0
