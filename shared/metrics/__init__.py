"""How every process shows its figures: the port, the families, histograms of bounded size.

Imports `shared.process`. What a service counts is in that service's `metrics.py`.
"""
