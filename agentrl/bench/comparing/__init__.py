"""What may be compared. `agentrl.bench.compare` compares."""
