"""Gather, decide, apply: one cycle judges every detector that is due. The engine knows no adapter."""
