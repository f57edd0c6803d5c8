"""What a run folder holds next to its checkpoints: marks of its logs, kept weights, and what the run was made with."""
