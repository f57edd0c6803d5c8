"""`check` tries the tools that each task offers, and names tasks that are there twice."""

from __future__ import annotations

from agentrl.env.check import check_env
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv


def fine(n: int) -> int:
    """Works."""
    return n


def broken(n: int) -> int:
    """Fails."""
    raise KeyError(n)


class Chosen(ToolEnv):
    """One task of four offers a tool that fails."""

    tasks = Tasks.of(train=[{"i": i} for i in range(4)], eval=[{"i": i} for i in range(4, 8)])

    def start(self, task):
        self.use_tools(broken if task.data["i"] == 3 else fine)
        return f"Say {task.data['i'] + 1}"

    def score(self, answer):
        return float(answer == str(self.task.data["i"] + 1))


def test_a_tool_that_only_some_tasks_offer_is_tried():
    report = check_env(Chosen, processes=False)
    assert [(f.code, "broken" in f.problem) for f in report.findings if f.code.startswith("tool")] == [
        ("tool-raises", True)
    ]


class Repeated(Chosen):
    """The same task twice in a split."""

    tasks = Tasks.of(train=[{"i": 1}], eval=[{"i": 2}, {"i": 2}])


def test_the_same_task_twice_in_a_split_is_a_warning():
    found = {finding.code: finding for finding in check_env(Repeated, processes=False).findings}
    assert found["repeated-tasks"].severity == "warning"
    assert "the 2 tasks of split 'eval' have 1 different contents" in found["repeated-tasks"].problem
