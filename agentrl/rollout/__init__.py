"""Rollouts: episodes, groups of them at once, the trajectory store, and replay."""

from agentrl.rollout.episode import run_episode
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts, arollout, rollout
from agentrl.rollout.store import TrajectoryStore, write_summary

__all__ = [
    "GroupRequest",
    "Rollouts",
    "TrajectoryStore",
    "arollout",
    "rollout",
    "run_episode",
    "write_summary",
]
