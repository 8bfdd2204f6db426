"""Tensors as JSON, in and out. Pure but for `slices`, which pauses between pieces.

Shared by all protocols in front; knows none of them.
"""
