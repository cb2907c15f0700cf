"""Training that knows when to measure: recipes, the loop, runs on disk."""

from collapselab.training.loop import RunInterrupted, run_recipe
from collapselab.training.recipe import Recipe
from collapselab.training.run_folder import RunFolder

__all__ = ["Recipe", "RunFolder", "RunInterrupted", "run_recipe"]
