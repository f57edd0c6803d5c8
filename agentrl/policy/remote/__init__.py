"""Policies behind a server: what they share, and one file for each API. The policies are in `agentrl.policy.chat`."""
