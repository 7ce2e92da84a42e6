"""The peers: each in a file of its own, all calibrated for the same budget by the same rule."""
