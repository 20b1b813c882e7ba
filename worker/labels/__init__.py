"""Labels -> a matrix of unit text embeddings, computed once per label set."""
