"""Experiments of our own, in the form of those of the papers."""
