"""int8 for trained weights: scales by token, smoothed channels, and layers that stay in floats.

`quantize.py` puts the steps together: what goes through each layer is observed on pictures
(`observe.py`), channels that are much larger than others are made smaller where that changes
nothing (`smooth.py`), weights are rounded so that no processor overflows (`levels.py`), and layers
multiply in eight bits (`layers.py`).
"""
