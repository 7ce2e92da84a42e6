"""One file a revision: `r0004_what_it_adds.py`."""
