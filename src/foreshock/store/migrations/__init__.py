"""Revisions of the tables, each leading from the one before it; `store/migrate.py` runs them."""
