"""What producer and worker agree on. Imports neither torch nor PIL."""
