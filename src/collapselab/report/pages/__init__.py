"""Pages that work offline: of a run, a profile, an experiment, and an index over experiments."""
