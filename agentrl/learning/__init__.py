"""The maths of learning: rows, losses, credit, and updates of a model. No environments, no files, no phases here."""
