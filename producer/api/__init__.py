"""The HTTP door: images and jobs for those who have no Redis at hand."""
