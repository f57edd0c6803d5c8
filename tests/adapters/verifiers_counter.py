"""A taskset of verifiers, as its users write them: count to a number with a tool, then say the number."""

from __future__ import annotations

from collections.abc import Iterable

import verifiers.v1 as vf

__all__ = ["CounterTaskset"]


class CounterData(vf.TaskData):
    number: int


class Adder(vf.Toolset[vf.ToolsetConfig, vf.State]):
    TOOL_PREFIX = None

    @vf.tool
    def add(self, a: int, b: int) -> str:
        """Add two numbers."""
        return str(a + b)


class CounterTask(vf.Task[CounterData, vf.State, vf.TaskConfig]):
    @classmethod
    def toolsets(cls, config: vf.TaskConfig) -> list[vf.Toolset]:
        return [Adder(vf.ToolsetConfig())]

    @vf.reward
    async def exact(self, trace: vf.Trace) -> float:
        return float(trace.last_reply == str(self.data.number))

    @vf.reward(weight=0.5)
    async def used_tool(self, trace: vf.Trace) -> float:
        return float(any(message.role == "tool" for message in trace.branches[-1].messages))


class CounterTaskset(vf.Taskset[CounterTask, vf.TasksetConfig]):
    def load(self) -> Iterable[CounterTask]:
        for number in range(10):
            prompt = f"What is {number} + 1?"
            yield CounterTask(CounterData(name=f"n{number}", prompt=prompt, number=number + 1), self.config.task)


if __name__ == "__main__":  # verifiers starts the module to serve its tools
    Adder.run()
