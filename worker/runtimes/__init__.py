"""Runtimes: the only modules that import inference libraries."""
