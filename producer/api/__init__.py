"""The HTTP API: images and jobs for those who have no Redis at hand."""
