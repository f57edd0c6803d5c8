"""A model's own confidence in its answers, and how well it fits them: pure functions, without torch."""
