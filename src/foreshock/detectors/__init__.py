"""Unsupervised models over vectors; higher is more anomalous, 1.0 is the threshold once calibrated. Pure."""
