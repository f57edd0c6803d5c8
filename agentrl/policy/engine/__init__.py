"""The embedded engine: continuous batching over kept keys and values. No messages and no chat format here."""
