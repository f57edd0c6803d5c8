"""The settings of an agent that plays episodes. Owns no process."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.config import Count, Positive, Whole


@dataclass(frozen=True)
class AgentConfig:
    """A program that plays the episodes, in front of which the model is.

    Attributes:
        command: for `sh -c`; the variables of its environment say which model and which task.
        processes: 0 starts the command for each episode. More start it so many times, and each process takes one
            episode after the other: for agents that load for long.
        at_once: programs that run at the same time where each episode starts one.
        timeout_s: of one episode, without the time in which it waits for the model; it is cut off then.
        max_turns: that the model takes in one episode; further requests are refused.
    """

    command: str
    processes: Whole = 0
    at_once: Count = 16
    timeout_s: Positive = 600.0
    max_turns: Count = 64

    def __post_init__(self) -> None:
        if not self.command.strip():
            raise ValueError('command must name a program, as in command = "python my_agent.py"')
