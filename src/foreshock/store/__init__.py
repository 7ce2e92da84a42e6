"""What outlives the process: models as immutable files, everything else in one database."""
