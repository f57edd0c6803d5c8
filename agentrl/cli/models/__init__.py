"""Commands for the model that a run has made: export it, serve it."""
