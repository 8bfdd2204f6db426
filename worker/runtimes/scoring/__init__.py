"""Bodies in the words of MLflow's scoring server: read and answered in the replica, and the form
in which models return what a gateway words for them.
"""
