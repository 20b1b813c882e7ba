"""What a worker loads: manifest, model files, and where they are cached."""
