"""The vocabulary that every other folder speaks: errors, time, the aligned grid, verdicts. No I/O."""
