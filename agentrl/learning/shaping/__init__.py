"""Shaping: rewards changed for training alone. One file a shaping; `base` has the contract."""
