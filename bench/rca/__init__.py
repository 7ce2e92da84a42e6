"""How well contributions name the cause, on labelled incidents of others."""
