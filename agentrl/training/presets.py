"""Defaults chosen by the model: tiny, pretrained and trained whole, pretrained with LoRA.

A preset fills keys of the TOML that the user has not written; what is written always wins. Owns no other default:
those of `tiny` are the dataclasses' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

PresetName = Literal["tiny", "full", "lora"]
Table = dict[str, Any]

TINY_PARAMETERS = 10_000_000  # the smallest pretrained models that are published for chat have ten times as many
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
    "tiny": "a tiny model",
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
    path = model.get("path")
    if path in (None, "none") or (isinstance(path, str) and _is_tiny(Path(path).expanduser())):
        return "tiny"
    lora = model.get("lora")
    return "lora" if isinstance(lora, Mapping) and lora.get("rank") else "full"


def _is_tiny(folder: Path) -> bool:
    """Whether a model folder holds fewer than `TINY_PARAMETERS` weights, as the models do that are made from scratch.

    Reads the headers of its safetensors files alone; a folder without them, or of adapters, is not tiny.
    """
    if (folder / "adapter_config.json").exists():
        return False
    total = 0
    try:
        for file in folder.glob("*.safetensors"):
            with safe_open(file, framework="numpy") as tensors:
                total += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return False  # loading the model says what is wrong with it
    return 0 < total < TINY_PARAMETERS


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
