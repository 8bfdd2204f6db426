"""Models of every kind, served, beside what their own libraries answer."""
