"""`python -m agentrl`: the same as the `agentrl` command."""

from agentrl.cli import main

main()
