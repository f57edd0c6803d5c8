"""What stands behind `agentrl.tools.sql`: the rules for a statement, and the process that runs it."""
