"""The tags of models and versions: which there are, their names, and how they are read. Pure.

`table` is the one place that knows them all: what is read, what a change does, what `penstock tags`
prints and what docs/tags.md says are made from it. Imports contracts; never touches a registry.
"""
