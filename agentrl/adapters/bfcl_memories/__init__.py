"""BFCL v4, memory: the conversations in which a policy writes the memory that it is asked about later."""
