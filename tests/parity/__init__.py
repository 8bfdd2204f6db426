"""Models of every kind, answered by MLflow's own scoring server and by ours: the same."""
