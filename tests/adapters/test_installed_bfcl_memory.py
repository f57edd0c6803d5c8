"""BFCL's memory as it is installed: calls and verdicts are those of the package's own executor and evaluation.

Skipped where the package is not installed; its evaluation needs pandas, filelock, tqdm and python-dotenv, too.
"""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from agentrl.env.registry import make
from agentrl.messages import Action
from tests.adapters.test_installed import CORRUPTIONS, needs, oracle_and_null, same

pytestmark = [pytest.mark.slow, needs("bfcl_eval"), needs("rank_bm25")]
ENV = "agentrl.adapters.bfcl_memory:BFCLMemory"
CATEGORIES = pytest.mark.parametrize("category", ["memory_kv", "memory_rec_sum"])
STUBS = (
    ("constants.model_config", "MODEL_CONFIG_MAPPING"),
    ("model_handler.base_handler", "BaseHandler"),
    ("model_handler.parser.java_parser", "parse_java_function_call"),
    ("model_handler.parser.js_parser", "parse_javascript_function_call"),
)
"""What imports the SDKs of models and parsers of other languages."""
CALLS = {
    "memory_kv": [
        ("core_memory_add", {"key": "dog", "value": "Ada (a dog)"}),
        ("core_memory_add", {"key": "Not A Key", "value": "x"}),
        ("core_memory_add", {"key": "long", "value": "x" * 301}),
        ("core_memory_replace", {"key": "dog", "value": 'it\'s "Rex"\n'}),
        ("core_memory_key_search", {"query": "dog", "k": 2}),
        ("core_memory_retrieve_all", {}),
        ("archival_memory_key_search", {"query": "monday deadline"}),
        ("archival_memory_list_keys", {}),
        ("archival_memory_retrieve", {"key": "nothing"}),
        ("archival_memory_remove", {"wrong": 1}),
        ("archival_memory_clear", {}),
        ("archival_memory_key_search", {"query": "monday"}),
    ],
    "memory_rec_sum": [
        ("memory_append", {"text": " A dog: Ada."}),
        ("memory_replace", {"old_text": "Ada", "new_text": "Rex"}),
        ("memory_replace", {"old_text": "nobody", "new_text": "x"}),
        ("memory_retrieve", {}),
        ("memory_append", {"text": "x" * 10001}),
        ("memory_update", {"no": 1}),
        ("memory_clear", {}),
        ("memory_retrieve", {}),
    ],
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package's own modules, with their folders in a temporary place and without the SDKs of its models."""
    monkeypatch.setenv("BFCL_PROJECT_ROOT", str(tmp_path / "root"))
    for name in ("pandas", "filelock", "tqdm", "dotenv"):
        pytest.importorskip(name)
    for name in [name for name in sys.modules if name.startswith("bfcl_eval")]:
        monkeypatch.delitem(sys.modules, name)
    for name, attribute in STUBS:
        stub = ModuleType(f"bfcl_eval.{name}")
        setattr(stub, attribute, {})
        monkeypatch.setitem(sys.modules, stub.__name__, stub)
    yield
    for name in [name for name in sys.modules if name.startswith("bfcl_eval")]:
        del sys.modules[name]


@CATEGORIES
async def test_solutions_are_right_and_doing_nothing_is_not(category):
    assert await oracle_and_null(ENV, 155, category=category) == (155, 0)


@CATEGORIES
def test_prompts_and_results_of_calls_are_those_of_the_package(category, package, tmp_path):
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils import execute_multi_turn_func_call
    from bfcl_eval.model_handler.utils import add_memory_instruction_system_prompt
    from bfcl_eval.utils import load_dataset_entry

    env = make(ENV, category=category)
    tasks = {task.data["scenario"]: task for task in env.tasks.split("eval")}
    entries = {entry["id"]: entry for entry in load_dataset_entry(category, include_prereq=False)}
    for scenario, task in tasks.items():
        messages, _ = env.reset(seed=0, options={"task": task})
        backend = category.removeprefix("memory_")
        folder = tmp_path / "agentic" / "memory" / backend / "memory_snapshot"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{scenario}_final.json").write_text(json.dumps(task.data["memory"]))
        place = {"model_result_dir": tmp_path, "scenario": scenario, "test_id": task.id}
        entry, given = entries[task.id], ({f"MemoryAPI_{backend}": place}, [f"MemoryAPI_{backend}"], "m", task.id)
        _, worlds = execute_multi_turn_func_call([], *given)
        theirs = add_memory_instruction_system_prompt(entry["question"], category, scenario, *worlds.values())
        assert [m.content for m in messages] == [m["content"] for m in theirs[0]]
        for name, arguments in CALLS[category]:
            text = f"{name}({','.join(f'{key}={value!r}' for key, value in arguments.items())})"
            (official,), _ = execute_multi_turn_func_call([text], *given)
            assert env._run(name, arguments) == official, (name, arguments)


@CATEGORIES
@CORRUPTIONS
def test_verdicts_are_those_of_the_packages_evaluation(category, corrupt, package):
    from bfcl_eval.eval_checker.eval_runner import _evaluate_single_agentic_entry

    env = make(ENV, category=category)
    verdicts = []
    for number, task in enumerate(env.tasks.split("eval")):
        messages, _ = env.reset(seed=0, options={"task": task})
        env.step(env.oracle(messages))
        right = env.oracle(messages).text
        said = right if corrupt is same else f"{right[:12]}{right[14:]}" if number % 2 else right.replace("'", "x", 4)
        _, reward, *_ = env.step(Action(said))
        handler = SimpleNamespace(decode_execute=_no_call)
        official = _evaluate_single_agentic_entry(
            handler, task.id, [[said]], list(task.data["answer"]), {"question": []}, "m", category
        )
        assert reward == float(official["valid"]), task.id
        verdicts.append(reward)
    assert sum(verdicts) == len(verdicts) if corrupt is same else sum(verdicts) < len(verdicts)


def _no_call(*given, **more):
    raise ValueError("a text is no call")
