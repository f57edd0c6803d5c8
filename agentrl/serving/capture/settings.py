"""The settings of an agent that plays episodes, and the identity of what it plays. Owns no process."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agentrl.config import Count, Positive, Whole
from agentrl.trajectory import CAPTURED, EnvRef


@dataclass(frozen=True)
class AgentConfig:
    """A program that plays the episodes, in front of which the model is.

    Attributes:
        command: for `sh -c`; the variables of its environment say which model and which task.
        processes: copies of the command that are started once and play one episode after the other, for agents that
            load for long; 0 starts the command for each episode.
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


def captured(ref: EnvRef, agent: str) -> EnvRef:
    """The identity of an environment as an agent plays it; it cannot be made."""
    return replace(ref, id=f"{CAPTURED}{ref.id}", kwargs={**ref.kwargs, "agent": agent})
