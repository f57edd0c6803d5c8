"""What a run folder holds next to its weights: marks of its logs, kept weights, the run's state and its summary."""
