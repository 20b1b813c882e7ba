"""Connections to Redis, its errors, and the check of what a server can do."""
