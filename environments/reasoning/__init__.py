"""Procedural questions with a chain of steps and one answer. One module draws the problems of each family."""
