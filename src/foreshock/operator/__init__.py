"""Kubernetes: what users wrote is watched, what the engine found is reported, and one replica leads."""
