"""Processes that live as long as a command: a private Redis, workers."""
