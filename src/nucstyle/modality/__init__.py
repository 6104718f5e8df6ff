"""Which imaging modality an image belongs to."""
