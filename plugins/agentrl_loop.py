"""The name by which verifiers finds our loop: `--env.agent.harness.id agentrl_loop`."""

from agentrl.adapters.verifiers.loop import AgentRLLoop

__all__ = ["AgentRLLoop"]
