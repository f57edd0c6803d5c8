"""Commands about episodes on record."""
