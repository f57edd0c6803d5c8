"""Episodes in the formats of other systems: Inspect's EvalLog, ATIF and verifiers' traces. Each is one file."""
