"""Suites: one policy on several environments, and two suites compared."""
