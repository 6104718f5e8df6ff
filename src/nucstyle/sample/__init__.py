"""A few dozen CC0 images of DSB 2018 with their masks, for the demo and the tests; see README.md beside this file."""
