"""A trained model on an address: an OpenAI-compatible endpoint over the embedded engine."""
