"""How right a model is on pictures whose labels are known: `worker evaluate`."""
