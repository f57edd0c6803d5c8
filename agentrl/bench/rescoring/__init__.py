"""Recorded episodes scored again: by a function, by new weights, or by the environment as it is now. Asks no model."""
