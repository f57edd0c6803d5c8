"""Pieces of `agentrl.bench.estimates`: pure numpy, without records."""
