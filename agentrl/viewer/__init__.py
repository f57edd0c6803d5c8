"""A web page over stores that grow: runs, curves, episodes, tokens, and forks that a person or a policy plays on."""
