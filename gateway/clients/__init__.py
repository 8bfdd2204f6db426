"""What clients of any protocol may do: where a browser may call from, and what is not read in time.

Bounds and rules that settings name. Imports `shared` only; never touches an inference.
"""
