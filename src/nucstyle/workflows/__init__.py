"""One file a verb: paths and config in, one run folder out."""
