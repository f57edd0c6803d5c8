"""The bubblewrap backend: namespaces on this machine. The walls are made here; what runs inside is the worker."""
