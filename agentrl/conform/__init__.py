"""Whether an environment is the same through every door: other frameworks' own clients and readers say so."""
