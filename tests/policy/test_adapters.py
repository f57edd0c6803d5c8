"""LoRA adapters: nothing changes before an update, folders are read again, and the engine samples with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentrl.errors import ModelError
from agentrl.policy import adapters, model_folder
from agentrl.policy.engine.forward_hf import HfForward
from agentrl.policy.engine.forward_lean import LeanForward, supports
from agentrl.policy.engine.slots import KvSlots
from agentrl.policy.local import LocalPolicy
from tests.policy import families

IDS = torch.arange(3, 40)[None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return families.save_folder("qwen2", tmp_path / "base")


def trained(folder: Path, **options: Any) -> Any:
    """The model of a folder with adapters that do something."""
    model, _ = model_folder.load(folder)
    torch.manual_seed(0)
    adapters.add(model, **{"rank": 4, "alpha": 8.0, **options})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def test_new_adapters_change_nothing_and_alone_train(folder: Path) -> None:
    model, _ = model_folder.load(folder)
    before = model(IDS).logits
    adapters.add(model, rank=4, alpha=8.0)
    assert torch.equal(model(IDS).logits, before)
    training = {name for name, p in model.named_parameters() if p.requires_grad}
    assert training == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert any("down_proj" in name for name in training)
    assert not any("lm_head" in name for name in training)


def test_a_folder_of_adapters_loads_as_a_model(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = trained(folder), model_folder.load(folder)[1]
    saved = model_folder.save(tmp_path / "lora", model, tokenizer)
    assert not (saved / "config.json").exists()
    assert sum(p.stat().st_size for p in saved.glob("adapter_model*")) < (folder / "model.safetensors").stat().st_size
    again, _ = model_folder.load(saved)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert not torch.allclose(again(IDS).logits, model_folder.load(folder)[0](IDS).logits, atol=1e-3)
    assert LocalPolicy.from_folder(saved).model.active_adapters() == ["default"]


def test_a_folder_that_peft_itself_wrote(folder: Path, tmp_path: Path) -> None:
    import peft

    base, _ = model_folder.load(folder)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config).eval()
    model.save_pretrained(tmp_path / "lora")
    again, tokenizer = model_folder.load(tmp_path / "lora")
    assert torch.allclose(again(IDS).logits, model(IDS).logits, atol=1e-6)
    assert tokenizer.chat_template


def test_adapters_whose_model_is_gone_say_what_to_set(folder: Path, tmp_path: Path) -> None:
    saved = model_folder.save(tmp_path / "lora", trained(folder), model_folder.load(folder)[1])
    config = json.loads((saved / adapters.CONFIG).read_text())
    (saved / adapters.CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": "someone/a-model"}))
    with pytest.raises(ModelError, match="set base_model_name_or_path"):
        model_folder.load(saved)
    (saved / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="no adapter weights"):
        model_folder.check_files(saved)


def test_targets_that_do_not_exist_are_refused(folder: Path) -> None:
    model, _ = model_folder.load(folder)
    with pytest.raises(ModelError, match=r"model.lora.targets = \['w_pack'\]"):
        adapters.add(model, rank=2, alpha=2.0, targets=["w_pack"])


def logits_of(forward: Any) -> torch.Tensor:
    return forward(np.empty(0, np.int64), np.empty(0, np.int64), [(0, IDS[0].numpy().astype(np.int32))])


@pytest.mark.parametrize("kind", [LeanForward, HfForward])
def test_the_engine_samples_with_adapters(folder: Path, kind: Any) -> None:
    model = trained(folder)
    assert supports(model)
    with torch.no_grad():
        expected = torch.log_softmax(model(IDS).logits[0, -1], -1)
    found = torch.log_softmax(logits_of(kind(model, KvSlots(2, 64)))[0], -1)
    assert (found - expected).abs().max() < 1e-5


def test_adapters_where_the_lean_forward_does_not_look_are_left_to_the_model(folder: Path) -> None:
    for targets in (["lm_head"], ["embed_tokens"]):
        assert not supports(trained(folder, targets=targets))


def test_merged_adapters_are_a_plain_model(folder: Path) -> None:
    model, plain = trained(folder), model_folder.load(folder)[0]
    before = plain(IDS).logits
    tensors = adapters.merged(model)
    assert tensors.keys() == plain.state_dict().keys()
    plain.load_state_dict(tensors)
    assert torch.allclose(plain(IDS).logits, model(IDS).logits, atol=1e-5)
    assert not torch.allclose(plain(IDS).logits, before, atol=1e-3)
    assert adapters.merged(plain).keys() == tensors.keys()
