"""The tokens of an episode: what trained, with which numbers, and what is not known."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentrl.messages import Action, Message
from agentrl.trajectory import Ending, Labels, Trajectory, Turn
from agentrl.viewer.tokens import tokens_json
from agentrl.viewer.watch import Watcher
from tests.viewer.conftest import episode, only_source, write

RL = '[stages.rl]\nkind = "reinforce"\n'
GRPO = '[stages.rl.credit]\nkind = "grpo"\n'
BEFORE = '[stages.before]\nkind = "evaluate"\n'


def sampled(number: int, reward: float, *, rewritten: bool = False, **fields: Any) -> Trajectory:
    """Two turns of two tokens each, after a context of three and one."""
    one = episode(number, group_id="g", **{"labels": Labels(stage="rl", step=1), **fields})
    first = Action("a", prompt_ids=(1, 2, 3), token_ids=(10, 11), logprobs=(-0.5, -math.inf), versions=(4, 4))
    context = (9, 9, 9) if rewritten else (1, 2, 3, 10, 11, 5)
    second = Action("b", prompt_ids=context, token_ids=(12, 13), logprobs=(-0.25, -1.0), versions=(4, 5))
    one.turns = [Turn((Message("user", "?"),), first), Turn((Message("user", "!"),), second, reward)]
    return one


@pytest.fixture
def tokens(tmp_path: Path, watch: Callable[..., Watcher]) -> Callable[..., dict[str, Any]]:
    """The tokens of the first of some episodes in a run of this configuration."""

    def of(config: str, *episodes: Trajectory, line: int = 1, row: int = 0, start: int = 0) -> dict[str, Any]:
        run = tmp_path / "run"
        write(run / "trajectories.jsonl", *episodes)
        if config:
            (run / "config.toml").write_text(config)
            (run / "metrics.jsonl").write_text("")
        watcher = watch(run)
        return tokens_json(watcher.index, watcher.sources[only_source(watcher)], line, row=row, start=start)

    return of


def test_the_mask_and_numbers_of_each_token(tokens: Callable[..., dict[str, Any]]) -> None:
    found = tokens(RL + GRPO, sampled(0, 1.0), sampled(1, 0.0))
    assert found["ids"] == [1, 2, 3, 10, 11, 5, 12, 13]
    assert found["mask"] == [False, False, False, True, True, False, True, True]
    assert found["logprobs"] == [None, None, None, -0.5, None, None, -0.25, -1.0]
    assert found["versions"] == [-1, -1, -1, 4, 4, -1, 4, 5]
    assert found["turns"] == [-1, -1, -1, 0, 0, -1, 1, 1]
    assert (found["rows"], found["size"], found["texts"], found["notes"]) == (1, 8, None, [])


def test_advantages_are_those_of_the_estimator_of_the_run(tokens: Callable[..., dict[str, Any]]) -> None:
    """RLOO: reward minus the mean of the others, here 1 - (0 + 0.5) / 2; a fault and an evaluation do not count."""
    config = f'{RL}[stages.rl.credit]\nkind = "rloo"\n{BEFORE}'
    fault = sampled(3, 0.0, ending=Ending("fault", "gone", "server"))
    other = sampled(4, 0.0, labels=Labels(stage="before", step=1))
    later = sampled(5, 0.0, labels=Labels(stage="rl", step=2))
    found = tokens(config, other, sampled(0, 1.0), sampled(1, 0.0), fault, sampled(2, 0.5), later, line=2)
    numbers = [value for value, trains in zip(found["advantages"], found["mask"], strict=True) if trains]
    assert numbers == pytest.approx([0.75] * 4)


def test_ratios_are_those_of_the_trainer_to_the_sampler(tokens: Callable[..., dict[str, Any]]) -> None:
    one = sampled(0, 1.0)
    one.turns[0].trainer_logprobs = (-0.5 + math.log(1.25), -0.7)
    found = tokens(RL + GRPO, one, sampled(1, 0.0))
    assert found["ratios"] == pytest.approx([None, None, None, 1.25, None, None, None, None])


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (RL + 'shaping = [{ kind = "length" }]\n' + GRPO, "shaping"),
        (RL + "dynamic_sampling = true\n", "dynamic_sampling"),
        (RL + '[stages.rl.credit]\nkind = "turn_gae"\n', "predicted values"),
        (RL + '[stages.rl.credit]\nkind = "./evil.py:Credit"\n', "names code"),
        (RL + '[stages.rl.credit]\nkind = "nothing"\n', "nothing"),
        ("not TOML", "no stage"),
        ("", "no stage"),
    ],
)
def test_advantages_that_are_not_known_are_said_so(
    config: str, told: str, tokens: Callable[..., dict[str, Any]]
) -> None:
    found = tokens(config, sampled(0, 1.0), sampled(1, 0.0))
    assert found["advantages"] is None
    assert told in "".join(found["notes"])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"labels": Labels(stage="before", step=1)}, "measures"),
        ({"labels": Labels(stage="rl", step=1, mode="greedy")}, "measures"),
        ({"ending": Ending("fault", "gone", "server")}, "discarded"),
        ({"labels": Labels(stage="rl", step=1, superseded=True)}, "discarded"),
    ],
)
def test_an_episode_that_did_not_train_says_so(
    fields: dict[str, Any], told: str, tokens: Callable[..., dict[str, Any]]
) -> None:
    found = tokens(RL + GRPO + BEFORE, sampled(0, 1.0, **fields), sampled(1, 0.0))
    assert told in found["notes"][0]
    assert found["advantages"] is None


def test_a_rewritten_history_is_another_row_and_pieces_are_bounded(tokens: Callable[..., dict[str, Any]]) -> None:
    one = sampled(0, 1.0, rewritten=True)
    found = tokens(RL + GRPO, one, sampled(1, 0.0), row=1, start=2)
    assert (found["rows"], found["row"], found["size"], found["ids"]) == (2, 1, 5, [9, 12, 13])
    long = sampled(2, 0.0)
    long.turns = [Turn((), Action("", prompt_ids=(1,) * 5000, token_ids=(2,), logprobs=(0.0,), versions=(0,)))]
    assert len(tokens(RL + GRPO, long, line=3)["ids"]) == 4096


def test_an_episode_without_tokens(tokens: Callable[..., dict[str, Any]]) -> None:
    found = tokens("", episode(0))
    assert found["rows"] == 0
    assert "no token ids" in found["notes"][0]


def test_texts_are_those_of_the_tokenizer_in_the_run(tmp_path: Path, watch: Callable[..., Watcher]) -> None:
    pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer, models

    run = tmp_path / "run"
    write(run / "trajectories.jsonl", sampled(0, 1.0))
    vocabulary = {f"w{n}": n for n in range(13)} | {"\x1b[2J": 13}
    model = run / "checkpoints" / "step-00000001"
    model.mkdir(parents=True)
    Tokenizer(models.WordLevel(vocabulary, unk_token="w0")).save(str(model / "tokenizer.json"))
    watcher = watch(run)
    found = tokens_json(watcher.index, watcher.sources[only_source(watcher)], 1, row=0, start=0)
    assert found["texts"] == ["w1", "w2", "w3", "w10", "w11", "w5", "w12", "\\u001b[2J"]
    (model / "tokenizer.json").write_text("no tokenizer")
    found = tokens_json(watcher.index, watcher.sources[only_source(watcher)], 1, row=0, start=0)
    assert found["texts"] is None
