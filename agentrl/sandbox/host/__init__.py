"""The host's side of a sandbox, shared by all backends. Owns the requests to a worker; isolates nothing itself.

It also holds what the backends have in common (control groups, system-call filters, cleaning up after dead owners),
and `unsafe`, the backend that runs a worker without isolation.
"""
