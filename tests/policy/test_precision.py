"""Which type a model's weights get: measured, recorded, and float32 where nothing is known or gained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agentrl.policy import precision


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A CPU with products in bfloat16 that are as many times faster as the test says."""

    def of(gain: float, *, able: bool = True) -> None:
        monkeypatch.setattr(precision, "_has_bfloat16", lambda: able)
        monkeypatch.setattr(precision, "_gain", lambda width: gain)

    return of


def test_bfloat16_is_chosen_where_it_is_measured_to_be_faster(machine: Any) -> None:
    machine(4.0)
    chosen = precision.choose(512, "cpu")
    assert chosen.dtype == "bfloat16"
    assert "4.0 times" in chosen.why
    machine(1.2)
    assert precision.choose(512, "cpu").dtype == "float32"


def test_narrow_models_other_devices_and_cpus_without_it_stay_in_float32(machine: Any) -> None:
    machine(9.0)
    assert precision.choose(128, "cpu").dtype == "float32"
    assert precision.choose(4096, "mps").dtype == "float32"
    machine(9.0, able=False)
    assert "no products in bfloat16" in precision.choose(4096, "cpu").why


def test_of_gpus_those_with_products_in_bfloat16_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, str] = {}
    for name, capability in {"H200": (9, 0), "A100": (8, 0), "T4": (7, 5)}.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        found[name] = precision.choose(576, "cuda:0").dtype
        assert precision.choose(128, "cuda").dtype == "float32"
    assert found == {"H200": "bfloat16", "A100": "bfloat16", "T4": "float32"}


def test_the_measurement_is_a_ratio_of_this_machine() -> None:
    assert 0.0 < precision._gain(64) < 1000.0
