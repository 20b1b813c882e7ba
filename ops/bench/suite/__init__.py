"""All benchmarks as one command, `ops/bench/all`: run in order, kept, and shown on a page."""
