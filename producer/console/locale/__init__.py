"""Catalogues of what we say, one a language."""
