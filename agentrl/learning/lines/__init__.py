"""Rows that share a line, packed one behind the other or as a tree: layout, attention, and proof that a model can."""
