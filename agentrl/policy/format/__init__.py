"""Chat formats: a conversation to token ids, and ids to an action. No sampling here."""
