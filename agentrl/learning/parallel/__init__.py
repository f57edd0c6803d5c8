"""Parallel: what the processes that train one model exchange."""
