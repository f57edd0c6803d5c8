"""Simulated users that are policies."""
