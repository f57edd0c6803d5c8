"""Instructions about a text that code checks. Each kind is a class of its own, registered in `constraint`."""
