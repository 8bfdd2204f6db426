"""The command line: commands, groups of help, completion, settings as flags, files and variables.

Heavy modules are imported when their command runs (`extras.load`).
"""
