"""Commands that say what is wrong: with an environment, with its scores, with this machine."""
