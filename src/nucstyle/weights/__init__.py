"""The weights that come with nucstyle, each with a model card (`.md`) beside it."""
