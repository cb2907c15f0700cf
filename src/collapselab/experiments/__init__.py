"""The engine of experiments: grids of runs, their rows, charts and claims."""
