"""What is kept in Redis beside the queue: jobs, blobs, dead letters."""
