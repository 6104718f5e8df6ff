"""One file a layout of data on disk."""
