"""The name by which verifiers finds environments of ours: `vf-eval agentrl_verifiers --env.taskset.env ENV`."""

from agentrl.adapters.verifiers.ours import AgentRLHarness, AgentRLTaskset

__all__ = ["AgentRLHarness", "AgentRLTaskset"]
