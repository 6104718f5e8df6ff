"""Segmenting nuclei: trunk, detector, targets, test-time augmentation, decoding."""
