"""Foreshock learns the normal operating envelope of a service and alerts when the service leaves it."""

__version__ = "0.1.0"
