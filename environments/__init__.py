"""The bundled environments, one file each. Owns their tasks and rewards, not the contract: that is `agentrl.env`."""
