"""A model of the hub -> an artifact."""
