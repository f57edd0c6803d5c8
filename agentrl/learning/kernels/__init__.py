"""Parts of a forward pass as one function with a gradient of its own. No model and no layout here."""
