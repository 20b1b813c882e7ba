"""Ways to run a model, one file each, behind one small interface (see base.py)."""
