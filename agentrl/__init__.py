"""AgentRL: train and benchmark tool-using language-model agents from environment reward.

The public names are looked up when they are first used, so that `import agentrl` loads neither torch
nor numpy, Gymnasium or pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from agentrl.bench.evaluate import evaluate as evaluate
    from agentrl.bench.runner import run_bench as run_bench
    from agentrl.config import load_config as load_config
    from agentrl.env.base import Env as Env
    from agentrl.env.base import Limits as Limits
    from agentrl.env.check import CheckReport as CheckReport
    from agentrl.env.check import check_env as check_env
    from agentrl.env.registry import env_ids as env_ids
    from agentrl.env.registry import make as make
    from agentrl.env.registry import register as register
    from agentrl.env.rubric import Rubric as Rubric
    from agentrl.env.tasks import Tasks as Tasks
    from agentrl.env.tool_env import ToolEnv as ToolEnv
    from agentrl.env.tool_env import call as call
    from agentrl.errors import AgentRLError as AgentRLError
    from agentrl.errors import EnvFault as EnvFault
    from agentrl.errors import EnvNotFound as EnvNotFound
    from agentrl.errors import PolicyFault as PolicyFault
    from agentrl.errors import ToolError as ToolError
    from agentrl.messages import Action as Action
    from agentrl.messages import Message as Message
    from agentrl.messages import ToolCall as ToolCall
    from agentrl.policy.base import Policy as Policy
    from agentrl.policy.base import SamplingParams as SamplingParams
    from agentrl.policy.chat import ChatPolicy as ChatPolicy
    from agentrl.policy.local import LocalPolicy as LocalPolicy
    from agentrl.policy.scripted import HumanPolicy as HumanPolicy
    from agentrl.policy.scripted import NullPolicy as NullPolicy
    from agentrl.policy.scripted import OraclePolicy as OraclePolicy
    from agentrl.policy.scripted import RandomPolicy as RandomPolicy
    from agentrl.policy.scripted import ScriptedPolicy as ScriptedPolicy
    from agentrl.rollout.episode import run_episode as run_episode
    from agentrl.rollout.runner import GroupRequest as GroupRequest
    from agentrl.rollout.runner import Rollouts as Rollouts
    from agentrl.rollout.store import TrajectoryStore as TrajectoryStore
    from agentrl.sandboxed.env import SandboxEnv as SandboxEnv
    from agentrl.tool_schema import Tool as Tool
    from agentrl.tool_schema import tool as tool
    from agentrl.training.config import TrainConfig as TrainConfig
    from agentrl.training.loop import resume as resume
    from agentrl.training.loop import train as train
    from agentrl.trajectory import Task as Task
    from agentrl.trajectory import Trajectory as Trajectory
    from agentrl.trajectory import TrajectoryGroup as TrajectoryGroup
    from agentrl.trajectory import Turn as Turn

_MODULE_OF = {
    "Action": "agentrl.messages",
    "AgentRLError": "agentrl.errors",
    "ChatPolicy": "agentrl.policy.chat",
    "CheckReport": "agentrl.env.check",
    "Env": "agentrl.env.base",
    "EnvFault": "agentrl.errors",
    "EnvNotFound": "agentrl.errors",
    "GroupRequest": "agentrl.rollout.runner",
    "HumanPolicy": "agentrl.policy.scripted",
    "Limits": "agentrl.env.base",
    "LocalPolicy": "agentrl.policy.local",
    "Message": "agentrl.messages",
    "NullPolicy": "agentrl.policy.scripted",
    "OraclePolicy": "agentrl.policy.scripted",
    "Policy": "agentrl.policy.base",
    "PolicyFault": "agentrl.errors",
    "RandomPolicy": "agentrl.policy.scripted",
    "Rollouts": "agentrl.rollout.runner",
    "Rubric": "agentrl.env.rubric",
    "SandboxEnv": "agentrl.sandboxed.env",
    "SamplingParams": "agentrl.policy.base",
    "ScriptedPolicy": "agentrl.policy.scripted",
    "Task": "agentrl.trajectory",
    "Tasks": "agentrl.env.tasks",
    "Tool": "agentrl.tool_schema",
    "ToolCall": "agentrl.messages",
    "ToolEnv": "agentrl.env.tool_env",
    "ToolError": "agentrl.errors",
    "TrainConfig": "agentrl.training.config",
    "Trajectory": "agentrl.trajectory",
    "TrajectoryGroup": "agentrl.trajectory",
    "TrajectoryStore": "agentrl.rollout.store",
    "Turn": "agentrl.trajectory",
    "call": "agentrl.env.tool_env",
    "check_env": "agentrl.env.check",
    "env_ids": "agentrl.env.registry",
    "evaluate": "agentrl.bench.evaluate",
    "load_config": "agentrl.config",
    "make": "agentrl.env.registry",
    "register": "agentrl.env.registry",
    "resume": "agentrl.training.loop",
    "run_bench": "agentrl.bench.runner",
    "run_episode": "agentrl.rollout.episode",
    "tool": "agentrl.tool_schema",
    "train": "agentrl.training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'agentrl' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
