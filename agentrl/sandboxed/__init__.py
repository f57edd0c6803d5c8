"""Environments whose episodes have a sandbox, and grading in it. The sandbox itself is `agentrl.sandbox`."""
