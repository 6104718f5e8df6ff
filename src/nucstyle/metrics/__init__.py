"""Scores: pure functions on label maps."""
