"""Jobs: the training runs that an experiment is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from collapselab.records.experiment import Label
from collapselab.records.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """One training run of a grid.

    Attributes:
        name: of its folder; the same for every seed.
        recipe: what is run; for a checkpoint of another job see `checkpoint_of`.
        labels: columns of the rows that tell this job from others.
        after: the job whose checkpoint it starts from; it comes first, and is run with this one.
    """

    name: str
    recipe: Recipe
    labels: Mapping[str, Label] = field(default_factory=dict)
    after: str | None = None


@dataclass(frozen=True)
class Preset:
    """An experiment at one scale.

    Attributes:
        jobs: by seed; each comes after the job whose checkpoint it starts from.
        seeds: default number of seeds.
        reduced: what is smaller than in the paper, and what the paper leaves open, in words.
    """

    jobs: Callable[[int], Sequence[Job]]
    seeds: int
    reduced: str


def checkpoint_of(job: str, seed: int, step: int) -> str:
    """Return the path of another run's weights, relative to the folder of a run of the same experiment."""
    return str(Path("..") / ".." / job / f"seed-{seed}" / "checkpoints" / f"step-{step:06d}.safetensors")
