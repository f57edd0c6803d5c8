"""The state of a run: what it counts over all stages, and which stage taught the model last."""

from __future__ import annotations

from agentrl.training.files.run_state import RunState


def test_tokens_add_up_over_steps_and_evaluations() -> None:
    state = RunState()
    state.count_step({"rollout/tokens": 30.0, "train/tokens": 20.0})
    state.count_step({"rollout/tokens": 5.0, "train/context_tokens": 7.0, "loss/policy": 0.5})
    state.count_evaluated(11)
    state.count_evaluated(2)
    assert state.tokens == {"sampled": 35, "trained": 20, "context": 7, "evaluated": 13}


def test_an_evaluation_is_not_the_stage_that_taught_last() -> None:
    state = RunState()
    assert state.last_taught == ""
    state.summaries = {"warm": {"loss": 1.0}, "rl": {"reward": 0.5}, "after": {"greedy": {"mean": 0.5}}}
    assert state.last_taught == "rl"
