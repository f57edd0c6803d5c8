"""Episodes written for other systems and read back: the same messages, rewards, token ids, and everything else."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agentrl import __version__
from agentrl.errors import ConfigError, StoreError
from agentrl.messages import Message
from agentrl.rollout.interchange import atif, inspect_log, verifiers_trace
from agentrl.rollout.interchange.files import export_episodes, read_atif, read_inspect
from agentrl.rollout.sources.chat_file import ChatError
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Labels, Trajectory
from tests.rollout.interchange.episodes import hard_episodes

GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A benchmark's folder with those episodes, an attempt that was tried again, and a reference."""
    folder = tmp_path / "run"
    with TrajectoryStore(folder / "trajectories.jsonl") as store:
        again, reference, *_ = hard_episodes()
        again.labels, reference.labels = Labels("bench", superseded=True), Labels("null")
        for episode in (again, *hard_episodes(), reference):
            store.append(episode)
    (folder / "summary.json").write_text(json.dumps({"identity": {}, "policy": "openai:bot"}))
    return folder


def same(found: list[Trajectory], episodes: list[Trajectory]) -> bool:
    return [replace(e, tools=list(e.tools)) for e in found] == [replace(e, tools=list(e.tools)) for e in episodes]


@pytest.mark.parametrize(
    ("form", "name", "read"), [("atif", "a.jsonl", read_atif), ("inspect", "l.json", read_inspect)]
)
def test_what_was_written_reads_back_the_same(form: Any, name: str, read: Any, run: Path, tmp_path: Path):
    done = export_episodes(run, tmp_path / name, form)
    assert (done.episodes, done.turns, done.discarded, done.with_ids) == (4, 6, 2, 4)
    found = [episode for _, episode in read(tmp_path / name)]
    assert not [error for error in found if isinstance(error, ChatError)]
    stored = list(TrajectoryStore(run / "trajectories.jsonl"))[1:-1]
    assert [e.messages() for e in found] == [e.messages() for e in stored]
    assert [[t.action for t in e.turns] for e in found] == [[t.action for t in e.turns] for e in stored]
    assert [e.reward for e in found] == [e.reward for e in stored]
    assert same(found, stored)


# What is written stays what it is.


def written() -> dict[str, Any]:
    """What each golden file holds: the first episodes alone, so that it stays small."""
    episodes = hard_episodes()
    date = datetime(2026, 11, 27, tzinfo=UTC)
    return {
        "inspect.json": [inspect_log.log_of(episodes, "openai:bot", created=date)],
        "atif.jsonl": [atif.document_of(episode, "openai:bot") for episode in episodes],
        "verifiers.jsonl": [verifiers_trace.line_of(episode, "openai:bot") for episode in episodes],
    }


def plain(lines: list[Any]) -> list[Any]:
    """Without the version of this package."""
    return [json.loads(json.dumps(line).replace(f'"{__version__}"', '"VERSION"')) for line in lines]


@pytest.mark.parametrize("name", ["inspect.json", "atif.jsonl", "verifiers.jsonl"])
def test_the_form_is_the_one_that_the_packages_accepted(name: str):
    """The golden files were validated by benchmarks/interchange_check.py with the packages installed."""
    golden = [json.loads(line) for line in (GOLDEN / name).read_text(encoding="utf-8").split("\n") if line]
    assert plain(written()[name]) == plain(golden)


# ATIF, where readers rely on it.


def test_atif_numbers_its_steps_and_names_each_call_once():
    document = atif.document_of(hard_episodes()[0], "bot")
    assert [step["step_id"] for step in document["steps"]] == list(range(1, len(document["steps"]) + 1))
    calls = [call["tool_call_id"] for step in document["steps"] for call in step.get("tool_calls", ())]
    assert calls == ["call_0", "call_1", "call_0#2"]
    assert [step["source"] for step in document["steps"]] == ["system", "user", "agent", "agent", "user", "agent"]


def test_atif_holds_ids_and_log_probabilities_natively_and_the_rest_in_extra():
    document = atif.document_of(hard_episodes()[0], "bot")
    agent = [step for step in document["steps"] if step["source"] == "agent"]
    assert agent[0]["metrics"]["completion_token_ids"] == [4, 5]
    assert agent[0]["metrics"]["prompt_token_ids"] == [1, 2, 3]
    assert agent[0]["metrics"]["logprobs"] == [-0.1234567890123, -2.0]
    assert [step["extra"]["reward"] for step in agent] == [0.25, 0.0, 0.75]
    assert {name: document["extra"][name] for name in ("seed", "status", "reward", "success")} == {
        "seed": 11,
        "status": "terminated",
        "reward": 1.0,
        "success": True,
    }
    assert document["extra"]["task"]["id"] == "eval-1"


def test_atif_marks_demonstrations_as_context():
    steps = atif.document_of(hard_episodes()[1], "bot")["steps"]
    assert [s.get("is_copied_context") for s in steps if s["source"] == "agent"] == [True, True, None, None]


def test_a_log_probability_that_json_has_no_number_for_is_kept_as_text():
    (agent,) = [s for s in atif.document_of(hard_episodes()[2], "bot")["steps"] if s["source"] == "agent"]
    assert "logprobs" not in agent["metrics"]
    assert agent["extra"]["logprobs"] == ["-inf"]


# verifiers: the ids along a path are those that the model saw.


def test_a_traces_nodes_hold_the_ids_of_every_turn():
    episode = hard_episodes()[0]
    (trace,) = verifiers_trace.line_of(episode, "bot")["traces"]
    for call, turn in zip(trace["calls"], episode.turns, strict=True):
        ids: list[int] = []
        node: int | None = call["node"]
        while node is not None:
            ids[:0] = trace["nodes"][node].get("token_ids", [])
            node = trace["nodes"][node]["parent"]
        assert tuple(ids) == (*(turn.action.prompt_ids or ()), *(turn.action.token_ids or ()))
        last = trace["nodes"][call["node"]]
        assert len(last["mask"]) == len(last["token_ids"])
        assert sum(last["mask"]) == len(last["logprobs"]) == len(turn.action.token_ids or ())
    roots = [node for node in trace["nodes"] if node["parent"] is None]
    assert len(roots) == 2, "the last prompt does not begin with what was there before"
    assert trace["rewards"] == {"reward": {"score": 1.0}}


def test_a_discarded_episode_has_no_reward():
    row = verifiers_trace.line_of(hard_episodes()[2], "bot")
    assert (row["ok"], row["traces"][0]["rewards"]) == (False, {"reward": None})
    (sample,) = inspect_log.log_of(hard_episodes()[2:3], "bot")["samples"]
    assert "scores" not in sample
    assert sample["error"]["message"] == "EnvFault: the till is down"
    assert inspect_log.log_of(hard_episodes(), "bot")["results"]["scores"][0]["metrics"]["mean"]["value"] == 0.5


# Which episodes, and where to.


def test_a_reference_is_written_where_it_is_asked_for(run: Path, tmp_path: Path):
    assert export_episodes(run, tmp_path / "null.jsonl", "atif", stage="null").episodes == 1
    assert export_episodes(run / "trajectories.jsonl", tmp_path / "two.jsonl", "verifiers", limit=2).episodes == 2
    assert '"model_name":"openai:bot"' in (tmp_path / "null.jsonl").read_text()
    export_episodes(run, tmp_path / "mine.json", "inspect", model="mine")
    assert json.loads((tmp_path / "mine.json").read_text())["eval"]["model"] == "mine"


def test_a_file_is_not_written_over_and_bad_names_are_told(run: Path, tmp_path: Path):
    (tmp_path / "there.jsonl").write_text("mine")
    for out, form, why in [
        ("there.jsonl", "atif", "exists"),
        ("log.eval", "inspect", "ends in .json, got 'log.eval'"),
        ("one.json", "atif", "holds one ATIF document, and there are more"),
        ("x.jsonl", "atof", "no format is named 'atof'"),
    ]:
        with pytest.raises(ConfigError, match=why):
            export_episodes(run, tmp_path / out, form)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="no episodes of the stage 'rl'"):
        export_episodes(run, tmp_path / "x.jsonl", "atif", stage="rl")
    with pytest.raises(ConfigError, match="there are no episodes at"):
        export_episodes(tmp_path / "nowhere", tmp_path / "x.jsonl", "atif")
    assert (tmp_path / "there.jsonl").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "there.jsonl"]


def test_one_document_may_stand_alone(run: Path, tmp_path: Path):
    export_episodes(run, tmp_path / "one.json", "atif", limit=1)
    ((number, episode),) = read_atif(tmp_path / "one.json")
    assert number == 1
    assert isinstance(episode, Trajectory)
    assert same([episode], hard_episodes()[:1])


def test_messages_hold_what_splits_lines_elsewhere():
    assert "\u2028" in hard_episodes()[0].turns[0].observation[1].content
    assert math.isinf((hard_episodes()[2].turns[0].action.logprobs or (0.0,))[0])
    assert Message("tool", "no id") in hard_episodes()[1].messages()
