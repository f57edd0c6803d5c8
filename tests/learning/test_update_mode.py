"""What the model is during an update: dropout is off unless asked for, with and without checkpointing."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM, Qwen3Config, Qwen3ForCausalLM

from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.objectives.supervised import Supervised
from agentrl.learning.update_mode import update_mode
from tests.learning.fixtures import SHAPE

STILL = {"lr": 0.0, "max_grad_norm": 0.0}


def attention_dropout():
    return Qwen3ForCausalLM(Qwen3Config(**{**SHAPE, "attention_dropout": 0.5}))


def dropout_inside_a_layer():
    """OPT calls dropout in the layer's own forward, by the layer's training flag."""
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=64,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            dropout=0.5,
            attention_dropout=0.5,
            word_embed_proj_dim=32,
        )
    )


def dropout_modules():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=256, resid_pdrop=0.5, embd_pdrop=0.5)
    )


async def gradient(model, rows, objective, **settings):
    learner = Learner(model, LearnerSettings(**STILL, **settings), objective)
    await learner.update(rows, objective)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("build", [attention_dropout, dropout_inside_a_layer, dropout_modules])
@pytest.mark.parametrize("objective", [PPOClip(), Supervised()])
async def test_checkpointing_turns_no_dropout_on(make_rows, build, objective):
    torch.manual_seed(0)
    model, rows = build().double().train(), make_rows()
    flags = [module.training for module in model.modules()]
    expected = await gradient(model, rows, objective)
    checkpointed = await gradient(model, rows, objective, gradient_checkpointing=True)
    assert (checkpointed - expected).abs().max() < 1e-9 * expected.abs().max()
    dropped = await gradient(model, rows, objective, gradient_checkpointing=True, dropout=True)
    assert (dropped - expected).abs().max() > 1e-2 * expected.abs().max()
    assert [module.training for module in model.modules()] == flags
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


async def test_checkpointing_recomputes_every_layer(make_model, make_rows):
    model, calls = make_model(), []
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(lambda *_: calls.append(1))
    await gradient(model, make_rows(), Supervised(), layout="pad", micro_batch_tokens=10_000)
    plain = len(calls)
    await gradient(
        model, make_rows(), Supervised(), layout="pad", micro_batch_tokens=10_000, gradient_checkpointing=True
    )
    assert len(calls) - plain == plain + len(model.model.layers)


def test_a_model_that_cannot_be_checkpointed_says_so():
    off = {"attention": None, "matmul_precision": "highest", "dropout": False}
    with pytest.raises(ValueError, match="gradient_checkpointing = false"):
        update_mode(torch.nn.Linear(2, 2), **off, gradient_checkpointing=True).__enter__()
