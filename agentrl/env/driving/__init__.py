"""How asynchronous methods run where the caller is plain code: without an event loop, or below Gymnasium's wrappers."""
