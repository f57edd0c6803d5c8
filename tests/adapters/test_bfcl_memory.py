"""BFCL's memory over a small stand-in for the package: what stands in it, calls, answers, and that it is not shared."""

from __future__ import annotations

import json
import sys

import pytest

from agentrl.adapters import bfcl, bfcl_memory
from agentrl.adapters.bfcl_memories import conversations
from agentrl.adapters.bfcl_memories.conversations import Conversation, write_memories
from agentrl.env.registry import make
from agentrl.errors import ConfigError, PolicyFault, RolloutError
from agentrl.messages import Action, ToolCall
from agentrl.policy.base import Policy
from agentrl.rollout.store import TrajectoryStore
from tests.adapters.fakes import forget, install

ID = "agentrl.adapters.bfcl_memory:BFCLMemory"
SOURCES = "eval_checker/multi_turn_eval/func_source_code"


def lines(*items) -> str:
    return "\n".join(map(json.dumps, items))


def question(number: int, text: str) -> dict:
    said = [[{"role": "user", "content": text}]]
    return {"id": f"memory_{number}-pets-{number}", "question": said, "scenario": "pets"}


def conversation(number: int, *says: str) -> dict:
    said = [[{"role": "user", "content": text}] for text in says]
    return {"id": f"memory_prereq_{number}-pets-{number}", "question": said, "scenario": "pets"}


def tool(name: str, *arguments: str) -> dict:
    properties = {argument: {"type": "string"} for argument in arguments}
    return {"name": name, "description": "It.", "parameters": {"type": "dict", "properties": properties}}


def answer(number: int, right: str, source: str) -> dict:
    return {"id": f"memory_{number}-pets-{number}", "ground_truth": [right, "Rex"], "source": source}


BASE = """
    from bfcl_eval.utils import is_memory_prereq
    class MemoryAPI:
        pass
    """
KV = """
    from bfcl_eval.eval_checker.multi_turn_eval.func_source_code.memory_api_metaclass import MemoryAPI
    class MemoryAPI_kv(MemoryAPI):
        def _dump_core_memory_to_context(self):
            return f"core: {self.core_memory}"
        def archival_memory_key_search(self, query):
            return {"keys": sorted(self.archival_memory)}
        def archival_memory_add(self, key, value):
            self.archival_memory[key] = value
            return {"status": "added"}
        def archival_memory_list(self):
            return list(self.archival_memory)
    """
FILES = {
    "utils.py": "raise ImportError('it would make folders next to the package')",
    "data/BFCL_v4_memory.json": lines(question(0, "My dog?"), question(1, "My cat?"), question(2, "And the dog?")),
    "data/possible_answer/BFCL_v4_memory.json": lines(
        answer(0, "Ada", "The dog is Ada."), answer(1, "Tom", "Tom, the cat!"), answer(2, "Ada", "The dog is Ada.")
    ),
    "data/memory_prereq_conversation/memory_pets.json": lines(
        conversation(0, "I have a dog.", "She is Ada."), conversation(1, "And a cat, Tom.")
    ),
    "data/multi_turn_func_doc/memory_kv.json": lines(
        tool("archival_memory_key_search", "query"),
        tool("archival_memory_add", "key", "value"),
        tool("archival_memory_list"),
    ),
    "constants/type_mappings.py": 'GORILLA_TO_OPENAPI = {"dict": "object", "string": "string"}',
    "constants/default_prompts.py": """
        MEMORY_AGENT_SETTINGS = {"pets": "You know pets."}
        MEMORY_BACKEND_INSTRUCTION_CORE_ARCHIVAL = "{scenario_setting} Here: {memory_content}"
        ADDITIONAL_SYSTEM_PROMPT_FOR_AGENTIC_RESPONSE_FORMAT = "Answer shortly."
        """,
    "eval_checker/agentic_eval/agentic_checker.py": """
        def agentic_checker(said, right):
            return {"valid": any(one.lower() in said.lower() for one in right)}
        """,
    f"{SOURCES}/memory_api_metaclass.py": BASE,
    f"{SOURCES}/memory_kv.py": KV,
}


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "bfcl_eval", FILES)
    forget("bfcl_eval", bfcl, bfcl_memory, conversations)
    yield
    forget("bfcl_eval", bfcl, bfcl_memory)


def called(name, **arguments):
    return Action(tool_calls=(ToolCall(name, arguments),))


def said_after(env, action) -> str:
    return env.step(action)[0][0].content


def test_the_sources_of_the_answers_stand_in_the_memory_and_the_oracle_finds_them():
    env = make(ID)
    (first, *_) = env.tasks.split("eval")
    messages, _ = env.reset(seed=0, options={"task": first})
    assert (first.id, len(env.tasks.split("eval"))) == ("memory_kv_0-pets-0", 3)
    assert [m.content for m in messages] == ["You know pets. Here: core: {}\n\nAnswer shortly.", "My dog?"]
    keys = json.loads(said_after(env, env.oracle(messages)))["keys"]
    assert keys == ["note_the_dog_is_ada_0", "note_tom_the_cat_1"], "a passage stands there once"
    assert env.step(env.oracle(()))[1:3] == (1.0, True)


@pytest.mark.parametrize(("text", "reward"), [("", 0.0), ("I do not know", 0.0), ("It is ADA.", 1.0), ("Rex", 1.0)])
def test_the_last_message_is_what_the_checker_reads(text, reward):
    env = make(ID)
    env.reset(seed=0, options={"task": env.tasks.split("eval")[0]})
    assert env.step(text)[1] == reward


def test_what_an_episode_writes_is_seen_by_itself_alone():
    one, other = make(ID), make(ID)
    for env in (one, other):
        env.reset(seed=0)
    assert said_after(one, called("archival_memory_add", key="x", value="y")) == '{"status": "added"}'
    twin = one.fork()
    said_after(twin, called("archival_memory_add", key="z", value="y"))
    assert len(json.loads(said_after(twin, called("archival_memory_list")))) == 4
    assert len(json.loads(said_after(one, called("archival_memory_list")))) == 3
    assert len(json.loads(said_after(other, called("archival_memory_list")))) == 2
    one.reset(seed=1)
    assert len(json.loads(said_after(one, called("archival_memory_list")))) == 2


def test_a_call_on_which_the_memory_raises_is_read_and_no_module_stays():
    env = make(ID)
    env.reset(seed=0)
    assert "unexpected keyword argument 'no'" in said_after(env, called("archival_memory_add", no=1))
    assert not [name for name in sys.modules if name.endswith(("bfcl_eval.utils", "memory_api_metaclass"))]


def test_a_question_of_more_than_twenty_steps_has_failed():
    env = make(ID)
    env.reset(seed=0)
    for _ in range(20):
        assert not env.step(called("archival_memory_list"))[2]
    assert env.step(called("archival_memory_list"))[1:3] == (0.0, True)


def test_a_memory_that_a_model_wrote_is_read_and_makes_another_task(tmp_path):
    folder = tmp_path / "results" / "agentic" / "memory" / "kv" / "memory_snapshot"
    folder.mkdir(parents=True)
    file = folder / "pets_final.json"
    file.write_text(json.dumps({"core_memory": {"dog": "Ada"}, "archival_memory": {}}))
    env = make(ID, memory=str(tmp_path / "results"))
    messages, _ = env.reset(seed=0)
    assert "core: {'dog': 'Ada'}" in messages[0].content
    assert env.tasks.split("eval")[0].fingerprint != make(ID).tasks.split("eval")[0].fingerprint
    assert list(folder.iterdir()) == [file], "nothing is written there"


@pytest.mark.parametrize("text", [None, "{", '{"core_memory": {}}', "[]"])
def test_a_folder_without_a_memory_is_refused_by_its_name(tmp_path, text):
    folder = tmp_path / "results" / "kv" / "memory_snapshot"
    folder.mkdir(parents=True)
    if text is not None:
        (folder / "pets_final.json").write_text(text)
    with pytest.raises(ConfigError, match=r"pets_final\.json"):
        make(ID, memory=str(tmp_path / "results")).tasks.split("eval")


def test_a_category_that_is_not_here_is_refused():
    with pytest.raises(ValueError, match=r"no category 'memory_kw' of memory here\. Did you mean 'memory_kv'"):
        make(ID, category="memory_kw")


def test_the_memory_of_vectors_says_what_it_needs():
    with pytest.raises(ValueError, match=r"embedding model all-MiniLM-L6-v2.* take memory_kv or memory_rec_sum"):
        make(ID, category="memory_vector")


class Remembers(Policy):
    """Writes down each message, and says what stands in its memory."""

    def __init__(self, fails_at: str = "") -> None:
        self.fails_at, self.seen = fails_at, []

    async def act(self, messages, tools, *, episode_id, sampling=None):
        last = messages[-1]
        if last.role == "user":
            if last.content == self.fails_at:
                raise PolicyFault("the server is down")
            self.seen.append((messages[0].content, last.content))
            return called("archival_memory_add", key=f"note-{len(self.seen)}", value=last.content)
        return Action("I see.")


async def test_a_policy_writes_its_memory_in_conversations_one_after_another_and_is_asked(tmp_path):
    policy = Remembers()
    out = await write_memories(policy, tmp_path / "memories", name="remembers")
    assert [text for _, text in policy.seen] == ["I have a dog.", "She is Ada.", "And a cat, Tom."]
    assert {prompt for prompt, _ in policy.seen} == {"You know pets. Here: core: {}"}
    held = list(TrajectoryStore(out / "trajectories.jsonl"))
    assert [(len(one.turns), one.reward) for one in held] == [(4, 1.0), (2, 1.0)]
    assert len(held[1].task.data["memory"]["archival_memory"]) == 2, "the second begins with what the first left"
    env = make(ID, memory=str(out))
    await env.areset(seed=0, options={"task": env.tasks.split("eval")[0]})
    (listed,) = (await env.astep(called("archival_memory_list")))[0]
    assert json.loads(listed.content) == ["note-1", "note-2", "note-3"]
    again = Remembers()
    await write_memories(again, out, name="remembers")
    assert again.seen == [], "what was played is not played again"


async def test_a_conversation_that_is_discarded_is_played_by_the_next_call(tmp_path):
    with pytest.raises(ExceptionGroup) as caught:
        await write_memories(Remembers("And a cat, Tom."), tmp_path / "m", name="remembers")
    assert isinstance(caught.value.exceptions[0], RolloutError)
    assert not list((tmp_path / "m").rglob("*_final.json")), "half a memory is none"
    policy = Remembers()
    await write_memories(policy, tmp_path / "m", name="remembers")
    assert [text for _, text in policy.seen] == ["And a cat, Tom."]


@pytest.mark.parametrize("name", ["other", None])
async def test_memories_of_another_policy_and_other_files_are_refused(tmp_path, name):
    out = tmp_path / "m"
    if name is None:
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
    else:
        await write_memories(Remembers(), out, name=name)
    with pytest.raises(ConfigError, match="choose another folder"):
        await write_memories(Remembers(), out, name="remembers")


def test_calls_without_end_end_a_conversation():
    env = Conversation()
    env.reset(seed=0)
    for _ in range(20):
        assert not env.step(called("archival_memory_list"))[2]
    assert env.step(called("archival_memory_list"))[1:3] == (0.0, True)
