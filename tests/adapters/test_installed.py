"""Suites as they are installed: solutions win, doing nothing does not, and verdicts are those of the package itself.

Skipped where a package is not installed. `benchmarks/suites.py NAME` makes an environment for each.
"""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import pytest

from agentrl.bench.evaluate import aevaluate
from agentrl.env.registry import make, reference
from agentrl.messages import Action
from agentrl.policy.scripted import NullPolicy, OraclePolicy

pytestmark = pytest.mark.slow


def needs(module: str):
    return pytest.mark.skipif(find_spec(module) is None, reason=f"{module} is not installed")


async def oracle_and_null(env_id: str, count: int, **kwargs) -> tuple[float, float]:
    """Successes of the suite's solutions, and of doing nothing, on tasks spread over the split."""
    ref = reference(env_id, **kwargs)
    env = make(ref)
    tasks = env.tasks.split("eval")
    await env.aclose()
    tasks = tasks[:: max(1, len(tasks) // count)][:count]
    solved, idle = [await aevaluate(policy, ref, tasks, max_concurrency=4) for policy in (OraclePolicy(), NullPolicy())]
    assert (solved.n_faults, idle.n_faults) == (0, 0)
    return solved.mean * len(tasks), idle.mean * len(tasks)


@needs("reasoning_gym")
async def test_reasoning_gym():
    env_id = "agentrl.adapters.reasoning_gym:ReasoningGym"
    assert await oracle_and_null(env_id, 20, dataset="chain_sum", train=5, held_out=20) == (20, 0)
    assert await oracle_and_null(env_id, 5, dataset="graph_color", train=5, held_out=5) == (5, 0)


@needs("textworld_express")
@pytest.mark.skipif(shutil.which("java") is None, reason="no java")
async def test_textworld_express():
    env_id = "agentrl.adapters.textworld_express:TextWorldExpress"
    assert await oracle_and_null(env_id, 8, held_out=1) == (8, 0)


@needs("agentdojo")
async def test_agentdojo_and_the_audit_finds_what_passes_on_an_empty_answer():
    from agentrl.bench.audit import aaudit

    env_id = "agentrl.adapters.agentdojo:AgentDojo"
    assert await oracle_and_null(env_id, 16, suite="banking") == (16, 5)
    report = await aaudit(reference(env_id, suite="banking"), num_tasks=None)
    (silence,) = [flaw for flaw in report.flaws if flaw.kind == "pays-for-silence"]
    assert sorted(silence.tasks) == sorted(f"banking-user_task_{n}" for n in (5, 6, 8, 9, 10))


def shortened(action: Action) -> Action:
    """A turn without its last call."""
    return Action(action.text, tool_calls=action.tool_calls[:-1])


def changed(action: Action) -> Action:
    """A turn whose last call has another argument."""
    if not action.tool_calls or not action.tool_calls[-1].arguments:
        return action
    *kept, last = action.tool_calls
    name, value = list(last.arguments.items())[-1]
    other = value + 1 if type(value) in (int, float) else f"{value}x" if isinstance(value, str) else [value]
    return Action(action.text, tool_calls=(*kept, type(last)(last.name, {**last.arguments, name: other})))


def same(action: Action) -> Action:
    return action


CORRUPTIONS = pytest.mark.parametrize("corrupt", [same, shortened, changed])


@needs("bfcl_eval")
@CORRUPTIONS
def test_bfcl_one_turn_has_the_verdicts_of_the_packages_checker(corrupt):
    from agentrl.adapters.bfcl import checker

    env = make("agentrl.adapters.bfcl:BFCL", category="ast")
    tasks = env.tasks.split("eval")[::12]
    verdicts = []
    for task in tasks:
        env.reset(seed=0, options={"task": task})
        action = corrupt(env.oracle(()))
        _, reward, *_ = env.step(action)
        output = [{call.name: dict(call.arguments)} for call in action.tool_calls]
        data = json.loads(json.dumps(task.data))
        official = checker().ast_checker(
            data["function"], output, data["answer"], _python(), data["category"], "agentrl"
        )
        assert reward == float(official["valid"]), task.id
        verdicts.append(reward)
    assert (sum(verdicts) >= len(tasks) - 2) if corrupt is same else (sum(verdicts) < len(tasks) / 5)


def _python():
    from bfcl_eval.constants.enums import Language

    return Language.PYTHON


@needs("bfcl_eval")
@CORRUPTIONS
def test_bfcl_several_turns_have_the_verdicts_of_the_packages_checker(corrupt):
    pytest.importorskip("mpmath")
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

    env = make("agentrl.adapters.bfcl_multi_turn:BFCLMultiTurn")
    tasks = env.tasks.split("eval")[::20]
    verdicts = []
    for number, task in enumerate(tasks):
        env.reset(seed=0, options={"task": task})
        terminated, steps, first = False, [[]], True
        while not terminated:
            action = env.oracle(())
            if action.tool_calls and first:
                action, first = corrupt(action), False
            calls = [f"{c.name}({','.join(f'{k}={v!r}' for k, v in c.arguments.items())})" for c in action.tool_calls]
            _, reward, terminated, *_ = env.step(action)
            if calls:
                steps[-1].append(calls)
            elif not terminated:
                steps.append([])
        entry = {"id": task.id, **{key: task.data[key] for key in ("initial_config", "involved_classes")}}
        official = multi_turn_checker(steps, task.data["answer"], entry, "", f"official_{corrupt.__name__}_{number}")
        assert reward == float(official["valid"]), task.id
        verdicts.append(reward)
    assert sum(verdicts) == len(tasks) if corrupt is same else sum(verdicts) < len(tasks)


@needs("agentdojo")
@CORRUPTIONS
async def test_agentdojo_has_the_verdicts_of_the_package(corrupt):
    from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
    from agentdojo.functions_runtime import FunctionCall
    from agentdojo.task_suite.load_suites import get_suite

    env = make("agentrl.adapters.agentdojo:AgentDojo")
    tasks = env.tasks.split("eval")[::8]

    class Replay(BasePipelineElement):
        def __init__(self, actions):
            self.actions = actions

        def query(self, query, runtime, env, messages=(), extra_args=None):
            said = []
            for action in self.actions:
                calls = [FunctionCall(function=c.name, args=dict(c.arguments)) for c in action.tool_calls]
                content = [{"type": "text", "content": action.text}]
                said.append({"role": "assistant", "content": content, "tool_calls": calls})
                for call in calls:
                    runtime.run_function(env, call.function, call.args)
            return query, runtime, env, said, {}

    verdicts = []
    for task in tasks:
        await env.areset(seed=0, options={"task": task})
        over, actions = False, []
        while not over:
            action = env.oracle(())
            action = corrupt(action) if action.tool_calls and not actions else action
            actions.append(action)
            if corrupt is shortened and not action.tool_calls:
                action = actions[-1] = Action("I am done.")
            _, reward, terminated, truncated, _ = await env.astep(action)
            over = terminated or truncated
        suite = get_suite("v1.2.2", task.data["suite"])
        user_task = suite.get_user_task_by_id(task.data["task"])
        utility, _ = suite.run_task_with_pipeline(Replay(actions), user_task, None, {})
        assert reward == float(utility), task.id
        verdicts.append(reward)
    assert sum(verdicts) == len(tasks) if corrupt is same else sum(verdicts) < len(tasks)
