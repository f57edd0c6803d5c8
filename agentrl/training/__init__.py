"""A training run: its plan, its folder, its checkpoints and its stages. The maths is `agentrl.learning`."""
