"""From history to models: when to learn, from what, and what that would have meant."""
