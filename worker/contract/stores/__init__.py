"""Stores in Redis beside the queue: jobs, blobs, dead letters."""
