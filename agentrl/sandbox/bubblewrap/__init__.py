"""The bubblewrap backend. Owns how a sandbox is made of namespaces on this machine, not the worker that runs in it."""
