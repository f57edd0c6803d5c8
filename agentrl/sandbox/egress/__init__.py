"""The way out of a sandbox with an allow-list. Owns the proxy on the host; starts no sandbox and sets no rule."""
