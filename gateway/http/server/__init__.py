"""HTTP itself: connections, heads, bodies, compression, and the short way of a plain inference.

Below all protocols in front. Never touches tensors but through the formats that it is given.
"""
