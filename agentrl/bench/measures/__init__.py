"""Statistics over episodes: one class each, found by name. The contract and the list of names are in `base`."""
