"""A chunk of images -> their results: read, decode, batch, infer, rank."""
