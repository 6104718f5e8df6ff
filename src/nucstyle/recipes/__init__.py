"""Recipes: every number of a training, as TOML with its origin beside it."""
