"""Decoding in child processes, which have deadlines and limits, and may be killed."""
