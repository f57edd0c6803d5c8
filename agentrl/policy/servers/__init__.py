"""Sampling from inference servers (vLLM, SGLang) over HTTP, token ids in and token ids out."""
