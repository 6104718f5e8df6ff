"""Augmentations: pixels change, labels do not (geometry moves both together)."""
