"""Engines: how the runs of a grid are done. One after another in this process, or many at once on a Ray cluster."""
