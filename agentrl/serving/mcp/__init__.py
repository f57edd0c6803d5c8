"""MCP on the side of the server: episodes at addresses and over stdio, and what an environment may offer there."""
