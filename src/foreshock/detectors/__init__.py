"""Unsupervised models over vectors; higher is more anomalous, and 1.0, once calibrated, is the alert threshold. Pure."""
