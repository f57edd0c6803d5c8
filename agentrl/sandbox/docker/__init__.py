"""The docker backend. Owns how a container is started, reached and removed, not the worker that runs in it."""
