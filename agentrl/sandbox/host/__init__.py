"""The host's side of a sandbox: channels, owners, limits and filters that every backend shares. No backend here."""
