"""What a worker tells of itself: metrics, health over HTTP, logs."""
