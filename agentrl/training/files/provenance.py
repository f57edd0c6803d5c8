"""What a run was made with: packages, machine, settings and cost, as JSON values for summary.json."""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from agentrl.bench.identity import package_version
from agentrl.bench.provenance import machine_facts

_PACKAGES = (
    "agentrl",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "gymnasium",
    "msgspec",
    "pydantic",
)


def provenance(config: Path, device: str) -> dict[str, Any]:
    """Versions, machine and settings.

    Args:
        config: the run's config.toml, which holds every setting in effect.
        device: that the model is on.
    """
    return {
        "packages": packages(),
        "machine": machine(device),
        "settings": tomllib.loads(config.read_text(encoding="utf-8")),
    }


def packages() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a run computes."""
    return {**{name: package_version(name) for name in _PACKAGES}, "python": platform.python_version()}


def machine(device: str) -> dict[str, Any]:
    """Where this process runs. Names neither the host nor its user."""
    return {
        **machine_facts(),
        "torch_threads": torch.get_num_threads(),
        "device": device,
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
    }


def cost(wall_s: float, cpu_s: float, by_stage: Mapping[str, float], tokens: Mapping[str, int]) -> dict[str, Any]:
    """What the run took, interruptions left out.

    Args:
        wall_s, cpu_s: of the whole run.
        by_stage: CPU seconds of each stage; set-up counts to the first one.
        tokens: sampled in training and in evaluations, trained, and seen by updates (context included).
    """
    return {
        "wall_s": round(wall_s, 1),
        "cpu_s": round(cpu_s, 1),
        "cpu_s_by_stage": {name: round(seconds, 1) for name, seconds in by_stage.items()},
        "tokens": dict(tokens),
    }
