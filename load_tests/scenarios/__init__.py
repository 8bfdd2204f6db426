"""What is measured of our own server; `registry` lists it."""
