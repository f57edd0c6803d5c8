"""Where groups of episodes come from. Playing them belongs to `agentrl.rollout.runner`."""
