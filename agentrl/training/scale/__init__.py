"""Where the episodes of a run are sampled, other than in its own process."""
