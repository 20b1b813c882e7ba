"""How Redis and the workers are reached."""
