"""The only way out of a sandbox with an allow-list: a proxy on the host. No sandbox here."""
