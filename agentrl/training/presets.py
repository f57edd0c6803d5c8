"""Defaults chosen by the model: tiny from scratch, pretrained and trained whole, pretrained with LoRA.

A preset fills keys of the TOML that the user has not written; what is written always wins. Owns no other default:
those of `tiny` are the dataclasses' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

PresetName = Literal["tiny", "full", "lora"]
Table = dict[str, Any]

_WARM_UP = {"name": "cosine", "warmup_steps": 10, "final": 0.1}
_FRUGAL = {"gradient_checkpointing": True, "micro_batch_tokens": 2048}


def _pretrained(supervise_lr: float, reinforce_lr: float, prefer_lr: float) -> Table:
    return {
        "sampling": {"max_tokens": 512},
        "supervise": {
            "num_episodes": 512,
            "epochs": 1,
            "batch_episodes": 16,
            "learner": {"lr": supervise_lr, "optimizer": "adamw", "schedule": _WARM_UP, **_FRUGAL},
        },
        "reinforce": {"learner": {"lr": reinforce_lr, "schedule": {"name": "constant", "warmup_steps": 5}, **_FRUGAL}},
        "prefer": {"learner": {"lr": prefer_lr, **_FRUGAL}},
    }


# Rates: whole models 1e-5 supervised (the order of Lambert et al. 2024, arXiv:2411.15124), 1e-6 from reward
# (DeepSeekMath, arXiv:2402.03300; the default of TRL's GRPOConfig and of verl's examples) and 5e-7 for DPO
# (arXiv:2411.15124). Adapters want about ten times the rate of a whole model (Schulman et al. 2025, "LoRA Without
# Regret"): 2e-4 supervised (Dettmers et al. 2023, arXiv:2305.14314), 1e-5 from reward, 5e-6 for DPO.
PRESETS: Mapping[PresetName, Table] = {
    "tiny": {},
    "full": _pretrained(1e-5, 1e-6, 5e-7),
    "lora": _pretrained(2e-4, 1e-5, 5e-6),
}


_WORDS: Mapping[PresetName, str] = {
    "tiny": "a tiny model from scratch",
    "full": "a pretrained model, trained whole",
    "lora": "a pretrained model with LoRA",
}


def words_of(path: str | None, rank: int, max_tokens: int, rates: Mapping[str, float]) -> str:
    """The preset of a run and what came of it, in one line.

    Args:
        path, rank: of the model and its adapters.
        max_tokens: of one turn.
        rates: learning rate of each stage that has one.
    """
    name = preset_of({"model": {"path": path, "lora": {"rank": rank}}})
    shown = "".join(f", learning rate of {stage} {rate:g}" for stage, rate in rates.items())
    return (
        f"Preset {name} ({_WORDS[name]}): {max_tokens} tokens a turn{shown}; a setting of yours replaces any of them."
    )


def preset_of(table: Mapping[str, Any]) -> PresetName:
    """The preset that a configuration's `[model]` asks for."""
    model = table.get("model")
    model = model if isinstance(model, Mapping) else {}
    if model.get("path") in (None, "none"):
        return "tiny"
    lora = model.get("lora")
    return "lora" if isinstance(lora, Mapping) and lora.get("rank") else "full"


def with_preset(table: Table) -> Table:
    """A configuration's table, whose stages name their kinds, with the preset's values where it has none."""
    preset = PRESETS[preset_of(table)]
    if not preset:
        return table
    filled = dict(table)
    filled["sampling"] = _under(table.get("sampling", {}), preset["sampling"])
    stages = table.get("stages")
    if isinstance(stages, Mapping):
        filled["stages"] = {name: _stage(stage, preset) for name, stage in stages.items()}
    return filled


def _stage(stage: Any, preset: Table) -> Any:
    if not isinstance(stage, Mapping) or not isinstance(stage.get("kind"), str):
        return stage
    return _under(stage, preset.get(stage["kind"], {}))


def _under(written: Any, defaults: Mapping[str, Any]) -> Any:
    """What is written, with defaults below it, table by table; what is no table is left to be refused."""
    if not isinstance(written, Mapping):
        return written
    filled = {**defaults, **written}
    for name, value in defaults.items():
        if isinstance(value, Mapping) and name in written:
            filled[name] = _under(written[name], value)
    return filled
