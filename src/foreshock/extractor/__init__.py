"""The feature service: queries in, vectors out, in a process of its own. The engine uses it and never needs it."""
