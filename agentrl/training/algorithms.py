"""Algorithms by name: the settings of a stage that make up a published method. Owns no maths and no default of parts.

`algorithm = "dapo"` in a stage's table stands for the settings here; what else the table holds comes on top. One of
your own is an `Algorithm`, or a mapping: an entry point in the group `agentrl.algorithms`, or a reference
`module:NAME`. None has a KL penalty: `kl_coef` adds one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from agentrl.config import OneOf, from_table
from agentrl.errors import ConfigError
from agentrl.registry import Registry
from agentrl.training.stages.base import STAGES, StageSettings

_PPO = {"kind": "ppo_clip", "clip_low": 0.2, "clip_high": 0.2}
_HIGHER = {"kind": "ppo_clip", "clip_low": 0.2, "clip_high": 0.28}


@dataclass(frozen=True)
class Algorithm:
    """A published method.

    Attributes:
        settings: of a stage, as in a TOML file; `kind` is `reinforce` where it is not given.
        source: paper, with what is left out of it or chosen here.
    """

    settings: Mapping[str, Any]
    source: str


_BUILT_IN = {
    "reinforce": Algorithm(
        {"credit": {"kind": "reinforce", "baseline": "mean"}, "objective": "policy_gradient"},
        "Williams 1992; the mean return of the step is the baseline",
    ),
    "reinforce_plus_plus": Algorithm(
        {"credit": "reinforce_plus_plus", "objective": _PPO}, "arXiv:2501.03262; without its KL in the reward"
    ),
    "reinforce_plus_plus_baseline": Algorithm(
        {"credit": {"kind": "reinforce_plus_plus", "group_baseline": True}, "objective": _PPO},
        "arXiv:2501.03262; without its KL in the loss",
    ),
    "rloo": Algorithm({"credit": "rloo", "objective": "policy_gradient"}, "arXiv:2402.14740"),
    "remax": Algorithm({"credit": "remax", "objective": "policy_gradient"}, "arXiv:2310.10505"),
    "grpo": Algorithm({"credit": "grpo", "objective": _PPO, "aggregation": "sequence"}, "arXiv:2402.03300"),
    "dr_grpo": Algorithm({"credit": "dr_grpo", "objective": _PPO, "aggregation": "constant"}, "arXiv:2503.20783"),
    "dapo": Algorithm(
        {
            "credit": "grpo",
            "objective": _HIGHER,
            "aggregation": "token",
            "dynamic_sampling": True,
            "shaping": ["overlong"],
        },
        "arXiv:2503.14476; set the limit of its overlong shaping to that of your episodes",
    ),
    "gspo": Algorithm({"credit": "grpo", "objective": "gspo", "aggregation": "sequence"}, "arXiv:2507.18071"),
    "cispo": Algorithm({"credit": "grpo", "objective": "cispo", "aggregation": "token"}, "arXiv:2506.13585"),
    "ppo": Algorithm(
        {"credit": {"kind": "token_gae", "whiten": True}, "objective": _PPO, "value": {"clip": 0.2}},
        "arXiv:1707.06347, with a value head and GAE over tokens",
    ),
    "turn_ppo": Algorithm(
        {"credit": {"kind": "turn_gae", "whiten": True}, "objective": _PPO, "value": {"clip": 0.2}},
        "PPO with GAE over turns, as in RAGEN's bi-level GAE without its token level, arXiv:2504.20073",
    ),
    "starpo_s": Algorithm(
        {
            "credit": {"kind": "token_gae", "whiten": True},
            "objective": _HIGHER,
            "value": {"clip": 0.2},
            "keep_groups": 0.25,
        },
        "arXiv:2504.20073, section 3.4: groups of largest spread, a value head, clip-higher, no KL",
    ),
    "return_batch_norm": Algorithm(
        {"credit": "return_batch_norm", "objective": "policy_gradient"}, "arXiv:2510.01051 (GEM, ReBN)"
    ),
    "gigpo": Algorithm({"credit": "gigpo", "objective": _PPO}, "arXiv:2505.10978; needs a state_key"),
    "hgpo": Algorithm({"credit": "hgpo", "objective": _PPO}, "arXiv:2602.22817; needs a state_key"),
    "gagpo": Algorithm(
        {"credit": "gagpo", "objective": {"kind": "gspo", "sequence": "turn", "clip_low": 0.2, "clip_high": 0.28}},
        "arXiv:2605.13217; needs a state_key; the clip range is PPO's",
    ),
    "forked": Algorithm(
        {"credit": "forked", "objective": _PPO, "playing": {"group_size": 4, "forks": {}}},
        "after VinePPO, arXiv:2410.01679, over turns; the continuations train too",
    ),
    "gdpo": Algorithm({"credit": "gdpo", "objective": _PPO}, "arXiv:2601.05242; needs named parts of the reward"),
    "rejection_sampling": Algorithm(
        {"credit": "rejection", "objective": "policy_gradient"}, "arXiv:2308.01825 (RFT), online"
    ),
    "dpo": Algorithm({"kind": "prefer", "objective": "dpo"}, "arXiv:2305.18290, on pairs that the model plays"),
    "ipo": Algorithm({"kind": "prefer", "objective": "ipo"}, "arXiv:2310.12036"),
    "cdpo": Algorithm(
        {"kind": "prefer", "objective": {"kind": "dpo", "label_smoothing": 0.1}}, "Mitchell 2023 (conservative DPO)"
    ),
    "robust_dpo": Algorithm(
        {"kind": "prefer", "objective": {"kind": "dpo", "label_smoothing": 0.1, "robust": True}}, "arXiv:2403.00409"
    ),
    "reward_model": Algorithm(
        {"kind": "prefer", "objective": "bradley_terry"}, "Bradley and Terry 1952; arXiv:2203.02155, eq. 1"
    ),
}
ALGORITHMS = Registry("algorithm", "agentrl.algorithms", {})
for _name, _algorithm in _BUILT_IN.items():
    ALGORITHMS.register(_name, _algorithm)


def expanded(stage: Any, key: str) -> Any:
    """A stage's table with the settings that its `algorithm` stands for under its own.

    Args:
        stage: what a file says of the stage; without `algorithm` it stays as it is.
        key: of the stage, for messages.
    Raises: ConfigError if there is no such algorithm, or it is of another kind of stage.
    """
    if not isinstance(stage, Mapping) or "algorithm" not in stage:
        return stage
    name = stage["algorithm"]
    if not isinstance(name, str):
        raise ConfigError(f"{key}.algorithm = {name!r}: expected a name, one of {', '.join(ALGORITHMS.names)}")
    found = ALGORITHMS.find(name)
    settings = {"kind": "reinforce", **(found.settings if isinstance(found, Algorithm) else found)}
    own = {k: value for k, value in stage.items() if k != "algorithm"}
    if own.get("kind", settings["kind"]) != settings["kind"]:
        raise ConfigError(
            f"{key}: algorithm {name!r} is one of a stage of kind {settings['kind']}, not {own['kind']}: leave out kind"
        )
    return _over(settings, own)


def stage_of(algorithm: str, **settings: Any) -> StageSettings:
    """The settings of a stage that trains by an algorithm.

    Args:
        algorithm: its name, or a reference.
        settings: further keys of the stage, as a TOML file would hold them.
    Raises: ConfigError as for a file.
    """
    return from_table(_One, {"stage": expanded({"algorithm": algorithm, **settings}, "stage")}).stage


@dataclass(frozen=True)
class _One:
    stage: Annotated[StageSettings, OneOf(STAGES)]


def _over(settings: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merged key by key; a part of another kind replaces the one there was."""
    merged = dict(settings)
    for key, value in own.items():
        before = merged.get(key)
        if isinstance(before, str):
            before = {"kind": before}
        merged[key] = value
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            same = value.get("kind", before.get("kind")) == before.get("kind")
            merged[key] = _over(before, value) if same else value
    return merged
