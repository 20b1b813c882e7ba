"""Holds a model and tags what the queue brings. `contract` is all that others may import."""
