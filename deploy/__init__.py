"""Ways to run Penstock; `deploy.local` runs all of it on one machine."""
