"""Bytes between our processes: tensors, messages, envelopes, frames, and keys for them.

Pure but for `frames`, `sockets` and `curve`. What is read costs in proportion to its bytes.
"""
