"""Finds images, sends them to be tagged, collects the tags. Imports neither torch nor PIL."""
