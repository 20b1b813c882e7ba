"""What a worker reports about itself: metrics, health over HTTP, logs."""
