"""Episodes that are played on from a recorded turn."""
