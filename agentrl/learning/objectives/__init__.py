"""Losses, each with its own hyper-parameters: one file an objective; `base` has the contract."""
