"""Simulated users: a second speaker in the episodes of a `UserEnv`."""
