"""`check` tries the tools that each task offers."""

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
