"""JSON Schemas of tools: in the form that models are shown, and values drawn from them."""
