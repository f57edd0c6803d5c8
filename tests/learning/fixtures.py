"""Small random models and rows, for the tests of learning and training."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from agentrl.learning.rows import Aggregation, Row, with_coefficients

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "attention_dropout": 0.0,
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model_of(kind: str = "qwen3", dtype: torch.dtype = torch.float64, seed: int = 0) -> PreTrainedModel:
    """A random model; the same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "llama":
            model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False))
        else:
            model = Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True))
    return model.to(dtype).eval()


def rows_of(
    seed: int = 0, lengths: tuple[int, ...] = (2, 23, 7, 40, 3, 11, 31), aggregation: Aggregation = "token"
) -> list[Row]:
    """Rows of awkward lengths with several sampled spans each, old logprobs near a uniform policy."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, length in enumerate(lengths):
        mask = rng.random(length) < 0.4
        mask[0], mask[-1 if number % 2 else length // 2] = False, True
        old = rng.normal(-4.0, 0.7, length)
        ids = rng.integers(0, SHAPE["vocab_size"], length)
        rows.append(Row.of(ids, mask, trajectory=number, unit=number, old_logprobs=old, advantages=float(rng.normal())))
    return with_coefficients(rows, aggregation, max_tokens=50)


@pytest.fixture
def make_model() -> Callable[..., PreTrainedModel]:
    return model_of


@pytest.fixture
def make_rows() -> Callable[..., list[Row]]:
    return rows_of
