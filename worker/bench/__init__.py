"""`worker bench`: the speed of a model in every engine and precision, beside transformers."""
