"""The docker backend: a container for each worker, through docker's or Podman's daemon."""
