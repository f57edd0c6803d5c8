"""Talking to servers: retries, secrets, one client per event loop, reachability. Knows no tool and no policy."""
