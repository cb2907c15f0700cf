"""Experiments of this project, in the same form as those of papers."""
