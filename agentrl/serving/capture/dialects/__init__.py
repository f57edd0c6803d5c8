"""The APIs that agents speak: a request becomes a `ChatRequest`, a turn becomes an answer, whole or in pieces."""
