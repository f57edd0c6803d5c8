"""Sampling in other processes: workers that play groups, and the pool that gives them work."""
