"""tau3 as it is installed: verdicts are those of the package itself, of solutions and of solutions that were changed.

Skipped where the package is not installed; TAU2_DATA_DIR names its folder `data`.
"""

from __future__ import annotations

import json

import pytest

from agentrl.env.registry import make
from agentrl.messages import Action
from tests.adapters.test_installed import CORRUPTIONS, needs, same

pytestmark = [pytest.mark.slow, needs("tau2")]
ENV = "agentrl.adapters.tau3:Tau3Solo"


def solution(env, task) -> list[Action]:
    """What the oracle does, the last words among it."""
    env.reset(seed=0, options={"task": task})
    actions = [env.oracle(())]
    while actions[-1].tool_calls:
        env.step(actions[-1])
        actions.append(env.oracle(()))
    return actions


def with_last_call(actions: list[Action], corrupt) -> list[Action]:
    """The same with the last call corrupted, which mostly changes a database; a turn without calls is dropped."""
    *first, words = actions
    if not first:
        return actions
    last = corrupt(first[-1])
    return [*first[:-1], *([last] if last.tool_calls else []), words]


def official(domain: str, task_id: str, actions: list[Action]) -> float:
    """The verdict of the package's own loop, on a world of its own. What a language model judges is left out."""
    from tau2.data_model.message import AssistantMessage, ToolCall
    from tau2.data_model.simulation import SimulationRun, TerminationReason
    from tau2.evaluator.evaluator import EvaluationType, evaluate_simulation
    from tau2.registry import registry

    world, messages = registry.get_env_constructor(domain)(), []
    for number, action in enumerate(actions):
        for call in action.tool_calls:
            made = ToolCall(id=f"call{number}", name=call.name, arguments=dict(call.arguments), requestor="assistant")
            told = world.get_response(made)
            messages += [AssistantMessage(role="assistant", content=None, tool_calls=[made]), told]
    messages.append(AssistantMessage(role="assistant", content=actions[-1].text or "-"))
    task = next(t for t in registry.get_tasks_loader(domain)(None) if t.id == task_id).model_copy(deep=True)
    criteria = task.evaluation_criteria
    criteria.reward_basis = [basis for basis in criteria.reward_basis if basis.value != "NL_ASSERTION"]
    run = SimulationRun(
        id="run",
        task_id=task.id,
        timestamp="",
        start_time="",
        end_time="",
        duration=0.0,
        termination_reason=TerminationReason.USER_STOP,
        messages=messages,
    )
    return evaluate_simulation(run, task, EvaluationType.ALL, False, domain).reward


@CORRUPTIONS
@pytest.mark.parametrize("env_id", [ENV, "agentrl.adapters.tau3.talk:Tau3"])
def test_retail_has_the_verdicts_of_the_package(env_id, corrupt):
    env = make(env_id, domain="retail")
    tasks = env.tasks.split("eval")[::19]
    verdicts = []
    for task in tasks:
        actions = with_last_call(solution(env, task), corrupt)
        env.reset(seed=0, options={"task": task})
        for action in actions:
            _, reward, *_ = env.step(action)
        assert reward == official("retail", task.data["task"], actions), task.id
        verdicts.append(reward)
    assert sum(verdicts) == len(tasks) if corrupt is same else sum(verdicts) < len(tasks)


def test_a_task_that_changes_nothing_is_named_with_what_is_not_judged():
    env = make(ENV, domain="retail")
    tasks = {task.id: task for task in env.tasks.split("eval")}
    env.reset(seed=0, options={"task": tasks["retail-24"]})
    _, reward, _, _, info = env.step("No.")
    assert (reward, info["not_judged"]) == (1.0, ["NL_ASSERTION"])
    assert sum(bool(env.not_judged(task)) for task in tasks.values()) == 112


def test_a_tool_of_the_user_changes_the_users_world():
    from agentrl.adapters.tau3.talk import _worlds

    env = make("agentrl.adapters.tau3.talk:Tau3", domain="mock")
    (task,) = [t for t in env.tasks.split("eval") if t.id == "mock-update_task_with_user_tools"]
    env.reset(seed=0, options={"task": task})
    world = _worlds(None)._open[env.unwrapped._world][2]
    assert [tool["function"]["name"] for tool in env.tool_schemas].count("dismiss_notification") == 0
    asked = {"name": "dismiss_notification", "arguments": {"notification_id": "notif_1"}}
    observation, *_ = env.step(f"Please call this: {json.dumps(asked)}")
    assert observation[0].content == "It says: Notification notif_1 dismissed"
    assert world.user_tools.db.notifications["notif_1"].status == "read"
