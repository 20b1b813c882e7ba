"""Embeddings that were kept: other tags by them, and search, without torch."""
