"""Training loops, and nothing but loops."""
