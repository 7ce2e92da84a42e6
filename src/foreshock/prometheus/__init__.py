"""Everything that speaks to Prometheus: what is asked, how it is read, and who may wait how long for it."""
