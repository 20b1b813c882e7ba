"""What Flower shows of a queue of ours: fields of chunks, a worker's panel, a Throughput page."""
