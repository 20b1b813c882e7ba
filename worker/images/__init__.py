"""A reference to an image -> uint8 pixels."""
