"""Training with measurements: recipes, the loop, runs on disk."""

from collapselab.records.recipe import Recipe
from collapselab.records.run_folder import RunFolder
from collapselab.storage import FolderInUse
from collapselab.training.run import run_recipe
from collapselab.training.stopping import RunInterrupted, Stopper, parse_duration

__all__ = ["FolderInUse", "Recipe", "RunFolder", "RunInterrupted", "Stopper", "parse_duration", "run_recipe"]
