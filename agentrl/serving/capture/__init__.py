"""Agents that nobody wrote for AgentRL: a proxy in front of the sampler that records what they ask. Owns sessions."""
