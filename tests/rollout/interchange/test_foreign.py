"""Files that other systems wrote: what is kept of them, and what is refused by name."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from agentrl.errors import StoreError
from agentrl.messages import Message, ToolCall
from agentrl.rollout.interchange.atif import episode_of
from agentrl.rollout.interchange.files import read_atif, read_inspect
from agentrl.rollout.sources.chat_file import ChatError
from agentrl.rollout.sources.chat_import import ImportFailed, import_episodes
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Ending, Trajectory

# As Inspect AI 0.3.285 wrote it for two samples of its mock model, shortened.
TOOL = {
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {"type": "object", "properties": {}},
    "options": None,
}
CALL = {"id": "for_tool_call_e5", "function": "add", "arguments": {"x": 1, "y": 2}, "type": "function"}
SAMPLE = {
    "id": "a",
    "epoch": 1,
    "input": "1+2?",
    "target": "3",
    "messages": [
        {"id": "N4", "content": "attachment://7c", "source": "input", "role": "user"},
        {
            "id": "SS",
            "content": "I add.",
            "source": "generate",
            "role": "assistant",
            "tool_calls": [CALL],
            "model": "m",
        },
        {"id": "PZ", "content": "3", "role": "tool", "tool_call_id": "for_tool_call_e5", "function": "add"},
        {
            "content": [{"type": "reasoning", "reasoning": "so 3"}, {"type": "text", "text": "The answer is 3"}],
            "role": "assistant",
            "source": "generate",
        },
    ],
    "output": {"model": "m", "choices": []},
    "scores": {"includes": {"value": "C", "answer": "The answer is 3"}, "other": {"value": {"a": 1}}},
    "metadata": {},
    "events": [{"event": "sample_init"}, {"event": "model", "tools": [TOOL]}],
    "attachments": {"7c": "1+2?"},
}
LOG: dict[str, Any] = {
    "version": 2,
    "status": "success",
    "eval": {"task": "task", "model": "mockllm/model", "created": "2026-11-27T08:20:42+00:00"},
    "samples": [SAMPLE],
}


def of_sample(tmp_path: Path, **changed: Any) -> Trajectory | ChatError:
    path = tmp_path / "log.json"
    path.write_text(json.dumps({**LOG, "samples": [{**SAMPLE, **changed}]}))
    ((_, found),) = read_inspect(path)
    return found


def test_a_sample_of_inspect_becomes_an_episode_with_its_score(tmp_path: Path):
    episode = of_sample(tmp_path)
    assert isinstance(episode, Trajectory)
    assert episode.messages() == [
        Message("user", "1+2?"),
        Message("assistant", "I add.", (ToolCall("add", {"x": 1, "y": 2}, "for_tool_call_e5"),)),
        Message("tool", "3", tool_call_id="for_tool_call_e5", name="add"),
        Message("assistant", "The answer is 3", reasoning="so 3"),
    ]
    assert (episode.reward, episode.success, episode.env.id, episode.task.id) == (1.0, True, "imported", "a")
    assert episode.tools[0]["function"]["name"] == "add"
    assert episode.info["inspect"]["scores"] == {"includes": 1.0, "other": None}
    assert (episode.info["inspect"]["model"], episode.info["rewarded"]) == ("mockllm/model", True)


@pytest.mark.parametrize(("value", "reward"), [("I", 0.0), ("P", 0.5), (True, 1.0), (0.25, 0.25), ("N", 0.0)])
def test_grades_become_numbers(value: Any, reward: float, tmp_path: Path):
    episode = of_sample(tmp_path, scores={"s": {"value": value}})
    assert isinstance(episode, Trajectory)
    assert episode.reward == reward


@pytest.mark.parametrize("scores", [None, {}, {"s": {"value": "good"}}, {"s": {"value": float("nan")}}])
def test_a_sample_without_a_score_has_no_reward(scores: Any, tmp_path: Path):
    episode = of_sample(tmp_path, scores=scores)
    assert isinstance(episode, Trajectory)
    assert (episode.info["rewarded"], episode.success) == (False, False)


def test_errors_limits_and_input_of_inspect_keep_their_meaning(tmp_path: Path):
    failed = of_sample(tmp_path, error={"message": "boom", "traceback": "", "traceback_ansi": ""})
    cut = of_sample(tmp_path, limit={"type": "token", "limit": 10})
    shown = [{**SAMPLE["messages"][1], "source": "input", "tool_calls": None}, *SAMPLE["messages"]]
    demo = of_sample(tmp_path, messages=shown)
    assert isinstance(failed, Trajectory)
    assert isinstance(cut, Trajectory)
    assert isinstance(demo, Trajectory)
    assert failed.ending == Ending("fault", "boom")
    assert cut.ending == Ending("limit", "token")
    assert [len(demo.turns), demo.turns[0].observation[0].role] == [2, "assistant"]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, r"messages\[0\]: .* part of type 'image'"),
        ({"messages": [{"role": "critic", "content": ""}]}, "must be a message of system, user"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}]}, "a call needs a name"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [3]}]}, "cannot be read"),
        ({"messages": [{"role": "user", "content": "x"}]}, "holds no turn of an assistant"),
        ({"messages": None}, "is no sample"),
        ({"limit": 3}, "sample: cannot be read"),
        ({"metadata": 3}, "sample: cannot be read"),
        ({"attachments": 3}, "sample: cannot be read"),
        ({"scores": {"s": {"value": 10**400}}}, "sample: cannot be read"),
        ({"metadata": {"agentrl": {"agentrl_format": 1}}}, "fields of AgentRL cannot be read .*format 1"),
        ({"metadata": {"agentrl": {"agentrl_format": 2}}}, "fields of AgentRL cannot be read .*env"),
    ],
)
def test_a_sample_that_cannot_be_kept_is_named(changed: dict[str, Any], why: str, tmp_path: Path):
    found = of_sample(tmp_path, **changed)
    assert isinstance(found, ChatError)
    with pytest.raises(ChatError, match=why):
        raise found


def test_an_archive_of_inspect_is_unpacked(tmp_path: Path):
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({k: v for k, v in LOG.items() if k != "samples"}))
        archive.writestr("samples/a_epoch_1.json", json.dumps(SAMPLE))
    ((_, found),) = read_inspect(path)
    assert isinstance(found, Trajectory)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "")
    with pytest.raises(StoreError, match=r"cannot be unpacked .*to JSON by `inspect log convert`"):
        list(read_inspect(path))


@pytest.mark.parametrize("header", [b"[]", b"{", b"\xff", None])
def test_an_archive_that_cannot_be_unpacked_is_refused(header: bytes | None, tmp_path: Path):
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("samples/a_epoch_1.json", json.dumps({**SAMPLE, "store": [*range(999)]}))
        if header is not None:
            archive.writestr("header.json", header)
    with pytest.raises(StoreError, match=r"not JSON|cannot be unpacked"):
        list(read_inspect(path))
    content = bytearray(path.read_bytes())
    content[60:90] = b"x" * 30
    path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be unpacked"):
        list(read_inspect(path))


@pytest.mark.parametrize(("text", "why"), [("{", "is not JSON"), ("[]", "is no log"), ('{"eval": {}}', "version None")])
def test_what_is_no_log_is_refused(text: str, why: str, tmp_path: Path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(StoreError, match=why):
        list(read_inspect(tmp_path / "x.json"))
    with pytest.raises(StoreError, match="cannot read"):
        list(read_inspect(tmp_path / "absent.json"))


# ATIF.

STEPS: list[dict[str, Any]] = [
    {"step_id": 1, "source": "user", "message": [{"type": "text", "text": "List "}, {"type": "text", "text": "them."}]},
    {
        "step_id": 2,
        "source": "agent",
        "message": "I look.",
        "reasoning_content": "ls",
        "tool_calls": [{"tool_call_id": "c1", "function_name": "bash", "arguments": {"command": "ls"}}],
        "observation": {"results": [{"source_call_id": "c1", "content": "a b"}]},
        "metrics": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "prompt_token_ids": [1, 2, 3],
            "completion_token_ids": [4, 5],
            "logprobs": [-0.5, -1],
        },
    },
    {
        "step_id": 3,
        "source": "agent",
        "message": "",
        "llm_call_count": 0,
        "observation": {"results": [{"content": "ok"}]},
    },
    {"step_id": 4, "source": "agent", "message": "a and b", "metrics": {"prompt_tokens": 9, "completion_tokens": 4}},
]
DOCUMENT: dict[str, Any] = {
    "schema_version": "ATIF-v1.6",
    "session_id": "s1",
    "agent": {"name": "harness", "version": "1", "model_name": "m"},
    "steps": STEPS,
    "extra": {"reward": 0.5, "task": "list-files"},
}


def step(number: int, **changed: Any) -> dict[str, Any]:
    steps = [{**s, **changed} if n == number else s for n, s in enumerate(STEPS, 1)]
    return {**DOCUMENT, "steps": steps}


def test_a_document_of_a_harness_becomes_an_episode():
    episode = episode_of(DOCUMENT, "x")
    first, last = episode.turns
    assert first.observation == (Message("user", "List them."),)
    assert (first.action.text, first.action.reasoning) == ("I look.", "ls")
    assert (first.action.prompt_ids, first.action.token_ids, first.action.logprobs) == ((1, 2, 3), (4, 5), (-0.5, -1))
    assert [m.role for m in last.observation] == ["tool", "assistant", "tool"], "what no model said does not train"
    assert last.action.usage == {"prompt_tokens": 9, "completion_tokens": 4}
    assert (episode.reward, episode.task.id, episode.episode_id) == (0.5, "list-files", "s1")
    assert episode.info["atif"]["model"] == "m"


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({}, "is no ATIF document"),
        ({**DOCUMENT, "schema_version": "ATIF-v2.0"}, "schema_version 'ATIF-v2.0': ATIF-v1.3 to ATIF-v1.8"),
        ({**DOCUMENT, "subagent_trajectories": [{}]}, "subagent_trajectories"),
        (step(2, step_id=3), "step 2: must have step_id 2"),
        (step(2, source="robot"), "source must be system, user or agent, got 'robot'"),
        (step(1, message=[{"type": "image", "source": {}}]), "step 1: its message has a part of type 'image'"),
        (step(2, metrics={"completion_token_ids": [1, 2], "logprobs": [-1.0]}), "1 logprobs of 2 completion_token_ids"),
        (step(2, metrics={"completion_token_ids": [1], "logprobs": [None]}), "logprobs must be numbers"),
        (step(2, metrics={"completion_token_ids": [-1]}), "completion_token_ids must be whole numbers"),
        (step(2, observation={"results": [{"source_call_id": "c9", "content": ""}]}), "'c9', which is no call of this"),
        (step(4, tool_calls=STEPS[1]["tool_calls"]), "step 4: two calls have the id 'c1'"),
        (step(2, tool_calls=[{"tool_call_id": "c1", "function_name": "x", "arguments": "{}"}]), "that are an object"),
        (step(2, tool_calls=[7]), "step 2: cannot be read"),
        ({**DOCUMENT, "extra": [3]}, "document: cannot be read"),
        ({**DOCUMENT, "agent": "m"}, "document: cannot be read"),
        ({**DOCUMENT, "extra": {"reward": 10**400}}, "document: cannot be read"),
        ({**DOCUMENT, "steps": STEPS[:1]}, "holds no turn of an assistant"),
    ],
)
def test_a_document_that_cannot_be_kept_is_named(document: dict[str, Any], why: str):
    with pytest.raises(ChatError, match=why):
        episode_of(document, "x")


def test_bad_documents_of_a_file_are_named_and_the_others_imported_on_request(tmp_path: Path):
    file = tmp_path / "all.jsonl"
    file.write_text(f"{json.dumps(DOCUMENT)}\n\n{{\n{json.dumps(step(2, step_id=9))}\n")
    with pytest.raises(ImportFailed) as caught:
        import_episodes(file, tmp_path / "out", read_atif, part="document")
    told = str(caught.value).split("\n")
    assert told[0].startswith("2 documents of")
    assert told[1].startswith("  document 3: is not JSON")
    assert told[2].startswith("  document 4: step 2: must have step_id 2")
    done = import_episodes(file, tmp_path / "out", read_atif, part="document", skip_bad=True)
    assert (done.chats, done.turns, done.rewarded, sorted(done.skipped)) == (1, 2, 1, [3, 4])
    (episode,) = TrajectoryStore(tmp_path / "out" / "trajectories.jsonl")
    assert episode.reward == 0.5
