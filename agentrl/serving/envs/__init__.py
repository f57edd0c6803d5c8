"""Environments behind doors: our own protocol, OpenEnv and MCP. Owns no environment."""
