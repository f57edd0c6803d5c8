"""Programs that run where a foreign package is installed. Each is run by its path, and imports nothing of AgentRL."""
