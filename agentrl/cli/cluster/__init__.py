"""Commands for runs that go on a cluster."""
