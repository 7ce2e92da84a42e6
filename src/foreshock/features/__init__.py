"""From an aligned grid to the vector that every detector judges: baseline, windows, statistics. Pure."""
