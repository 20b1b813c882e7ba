"""URL -> bytes, from web servers and object stores, on one event loop apart from decoding."""
