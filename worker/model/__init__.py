"""The network itself: loaded from transformers, rewritten for inference, in other precisions."""
