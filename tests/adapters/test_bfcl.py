"""BFCL over a small stand-in for the package: messages, tools, answers, and that worlds are not shared."""

from __future__ import annotations

import json
import sys

import pytest

from agentrl.adapters import bfcl, bfcl_multi_turn
from agentrl.env.registry import make
from agentrl.messages import Action, ToolCall
from tests.adapters.fakes import forget, install

AST, TURNS = "agentrl.adapters.bfcl:BFCL", "agentrl.adapters.bfcl_multi_turn:BFCLMultiTurn"
FUNCTION = {
    "name": "math.area",
    "description": "Area.",
    "parameters": {
        "type": "dict",
        "properties": {"base": {"type": "float", "description": "b."}, "how": {"type": "dict", "properties": {}}},
        "required": ["base"],
    },
}
ROW = {"id": "simple_python_0", "question": [[{"role": "user", "content": "Base 3?"}]], "function": [FUNCTION]}
ANSWER = {"id": "simple_python_0", "ground_truth": [{"math.area": {"base": [3, 3.5], "how": [{"unit": ["", "m"]}]}}]}
DOC = {"name": "add", "description": "Add.", "parameters": {"type": "dict", "properties": {"by": {"type": "integer"}}}}
TURN_ROW = {
    "id": "multi_turn_miss_func_0",
    "question": [[{"role": "user", "content": "Add 2."}], [{"role": "user", "content": "Thanks."}], []],
    "initial_config": {"Counter": {"count": 1}},
    "involved_classes": ["Counter"],
    "missed_function": {"2": ["twice"]},
}
TURN_ANSWER = {"id": "multi_turn_miss_func_0", "ground_truth": [["add(2)"], [], ["twice(times=1)"]]}
FILES = {
    "data/BFCL_v4_simple_python.json": json.dumps(ROW),
    "data/possible_answer/BFCL_v4_simple_python.json": json.dumps(ANSWER),
    "data/BFCL_v4_irrelevance.json": json.dumps({**ROW, "id": "irrelevance_0"}),
    "data/BFCL_v4_multi_turn_miss_func.json": json.dumps(TURN_ROW),
    "data/possible_answer/BFCL_v4_multi_turn_miss_func.json": json.dumps(TURN_ANSWER),
    "data/multi_turn_func_doc/counter.json": f"{json.dumps(DOC)}\n{json.dumps({**DOC, 'name': 'twice'})}",
    "constants/type_mappings.py": 'GORILLA_TO_OPENAPI = {"dict": "object", "float": "number", "integer": "integer"}',
    "constants/enums.py": "class Language:\n    PYTHON = 'python'",
    "constants/model_config.py": "raise ImportError('it would load every SDK')",
    "constants/default_prompts.py": "DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC = 'More functions.'",
    "constants/executable_backend_config.py": """
        MULTI_TURN_FUNC_DOC_FILE_MAPPING = {"Counter": "counter.json"}
        CLASS_FILE_PATH_MAPPING = {"Counter": "bfcl_eval.counter"}
        """,
    "counter.py": """
        class Counter:
            def add(self, by):
                self.count += by
                return str(self.count)
            def twice(self, times):
                return self.add(self.count)
        """,
    "eval_checker/ast_eval/ast_checker.py": """
        from bfcl_eval.constants.model_config import MODEL_CONFIG_MAPPING
        def ast_checker(functions, output, answer, language, category, model):
            assert MODEL_CONFIG_MAPPING[model].underscore_to_dot
            if output[0].get("math_area", {}).get("base") == "raise":
                raise TypeError("not expected")
            return {"valid": output == [{"math_area": {"base": 3, "how": {"unit": "m"}}}]}
        """,
    "eval_checker/multi_turn_eval/multi_turn_utils.py": """
        import json, re
        from bfcl_eval.counter import Counter
        def execute_multi_turn_func_call(
            calls, initial_config, involved_classes, model_name, test_entry_id, long_context
        ):
            name = f"{model_name}_{test_entry_id}_Counter_instance"
            if name not in globals():
                globals()[name] = Counter()
                globals()[name].count = initial_config["Counter"]["count"]
            results = []
            for call in calls:
                try:
                    results.append(eval(f"{name}.{call}"))
                except Exception as error:
                    results.append(f"Error during execution: {error}")
            return results, {"Counter": globals()[name]}
        """,
    "eval_checker/multi_turn_eval/multi_turn_checker.py": """
        from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils import execute_multi_turn_func_call as run
        def multi_turn_checker(steps, answer, entry, category, model):
            ends = []
            for name, turns in ((model, steps), (model + "_right", [[calls] for calls in answer])):
                for turn in turns:
                    for calls in turn:
                        _, world = run(calls, entry["initial_config"], [], name, entry["id"], False)
                ends.append(world["Counter"].count)
            return {"valid": ends[0] == ends[1]}
        """,
}


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "bfcl_eval", FILES)
    forget("bfcl_eval", bfcl, bfcl_multi_turn)
    yield
    forget("bfcl_eval", bfcl, bfcl_multi_turn)


def called(*calls):
    return Action(tool_calls=tuple(ToolCall(name, arguments) for name, arguments in calls))


def test_the_first_of_the_answers_is_the_oracle_and_dots_become_underscores():
    env = make(AST, category="simple_python")
    messages, _ = env.reset(seed=0)
    (tool,) = env.tool_schemas
    assert messages[0].content == "Base 3?"
    assert tool["function"]["name"] == "math_area"
    assert tool["function"]["parameters"]["properties"]["base"] == {
        "type": "number",
        "format": "float",
        "description": "b. This is a float type value.",
    }
    action = env.oracle(messages)
    assert action.tool_calls[0].arguments == {"base": 3, "how": {"unit": "m"}}
    assert env.step(action)[1] == 1.0
    assert "bfcl_eval.constants.model_config" not in sys.modules, "the stand-in for the table of models has stayed"


def test_an_answer_as_it_ships_keeps_what_the_function_does_not_have(tmp_path):
    answer = json.loads(json.dumps(ANSWER))
    answer["ground_truth"][0]["math.area"]["colour"] = ["red", ""]
    file = tmp_path / "bfcl_eval" / "data" / "possible_answer" / "BFCL_v4_simple_python.json"
    file.write_text(json.dumps(answer))
    env = make(AST, category="simple_python")
    messages, _ = env.reset(seed=0)
    assert env.as_shipped(messages).tool_calls[0].arguments == {"base": 3, "how": {"unit": "m"}, "colour": "red"}
    assert env.step(env.as_shipped(messages))[1] == 0.0
    env.reset(seed=0)
    assert env.step(env.oracle(messages))[1] == 1.0


@pytest.mark.parametrize(
    "action",
    [
        Action(""),
        called(("math_area", {"base": 4})),
        called(("math_area", {"base": "raise"})),
        called(("no_tool", {"base": 3, "how": {"unit": "m"}})),
        called(("math_area", {"base": 3, "how": {"unit": "m"}}), ("no_tool", {})),
    ],
)
def test_other_calls_are_wrong_and_no_fault(action):
    env = make(AST, category="simple_python")
    env.reset(seed=0)
    _, reward, terminated, truncated, _ = env.step(action)
    assert (reward, terminated or truncated) == (0.0, True)


def test_where_no_function_fits_a_call_of_any_name_is_wrong():
    env = make(AST, category="irrelevance")
    for action, reward in ((Action("I cannot."), 1.0), (called(("math_area", {})), 0.0), (called(("x", {})), 0.0)):
        env.reset(seed=0)
        assert env.step(action)[1] == reward
    with pytest.raises(ValueError, match=r"no category 'irelevance' here\. Did you mean 'irrelevance'"):
        make(AST, category="irelevance")


# Several turns.


def opened():
    env = make(TURNS, category="multi_turn_miss_func")
    return env, list(env.reset(seed=0)[0])


def test_the_solution_turn_by_turn_with_a_function_that_comes_later():
    env, conversation = opened()
    assert [tool["function"]["name"] for tool in env.tool_schemas] == ["add"]
    seen = []
    while True:
        action = env.oracle(conversation)
        seen.append([(call.name, dict(call.arguments)) for call in action.tool_calls])
        messages, reward, terminated, _, _ = env.step(action)
        conversation += messages
        if terminated:
            break
    assert seen == [[("add", {"by": 2})], [], [], [("twice", {"times": 1})], []]
    assert reward == 1.0
    later = next(message.content for message in conversation if "More functions." in message.content)
    assert '"name": "twice"' in later


def test_episodes_at_the_same_time_have_worlds_of_their_own_and_leave_none():
    (one, _), (other, _) = opened(), opened()
    assert one.step(called(("add", {"by": 1})))[0][0].content == "2"
    assert other.step(called(("add", {"by": 5})))[0][0].content == "6"
    twin = one.fork()
    assert twin.step(called(("add", {"by": 1})))[0][0].content == "3"
    assert one.step(called(("add", {"by": 10})))[0][0].content == "12"
    module = sys.modules["bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils"]
    assert [name for name in vars(module) if name.endswith("_instance")] == []


def test_names_that_a_model_makes_up_never_reach_the_code_that_runs_text():
    assert bfcl_multi_turn.written("add", {"by": "a)b"}) == "add(by='a)b')"
    spied = bfcl_multi_turn.written("add", {"by=1) or print": 2})
    assert spied == "add(**{'by=1) or print': 2})"
    env, _ = opened()
    env.step(called(("__import__", {"name": "os"}), ("add", {"x=1, **__builtins__": 1})))
    assert env.steps == [[["no_such_function()", "add(**{'x=1, **__builtins__': 1})"]]]


@pytest.mark.parametrize("name", ["precision", "decimal_places", "exponent"])
def test_a_number_of_digits_that_nothing_could_interrupt_is_an_error_and_does_not_reach_the_checker(name):
    env, _ = opened()
    for count in (10**9, -1e9):
        observation, *_ = env.step(called(("add", {name: count})))
        assert f"{name} must be from -1000 to 1000" in observation[0].content
    assert env.steps[-1] == [["no_such_function()"]] * 2


def test_a_turn_of_more_than_twenty_steps_ends_the_task_as_failed():
    env, _ = opened()
    for _ in range(20):
        assert not env.step(called(("add", {"by": 0})))[2]
    _, reward, terminated, _, _ = env.step(called(("add", {"by": 2})))
    assert (reward, terminated) == (0.0, True)
