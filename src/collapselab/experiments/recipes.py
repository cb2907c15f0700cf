"""Jobs of experiments: the values of a paper, and the changes of smaller scales.

A figure declares its jobs once, with the paper's values, as a function of the seed and of changes; each scale lists its
changes. docs/contributing-an-experiment.md has an example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from collapselab.data.recipe import DataSpec, Sample
from collapselab.records.experiment import Label, Scale
from collapselab.records.recipe import Recipe

SMOKE = "This scale only tests that everything works; its verdicts mean nothing."


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


Changes = Mapping[str, object]
# Jobs of a seed, with changes to their recipes; each comes after the job whose checkpoint it starts from.
Jobs = Callable[[int, Changes], Sequence[Job]]


@dataclass(frozen=True)
class At:
    """An experiment at one scale.

    Attributes:
        reduced: text about what is smaller than in the paper, and what the paper does not specify.
        seeds: default number of seeds.
        changes: overrides for every recipe, by path.
        make: jobs to use instead of those of the paper.
        extra_data: data sets that extras read, in addition to those of the jobs.
        gpus: that a run needs on a cluster; None for one at scale `paper` and none at the others.
    """

    reduced: str
    seeds: int = 3
    changes: Changes = field(default_factory=dict)
    make: Jobs | None = None
    extra_data: Sequence[DataSpec] = ()
    gpus: float | None = None

    def jobs(self, seed: int) -> Sequence[Job]:
        """Return the jobs of a seed."""
        assert self.make is not None, "`scales` gives those of the paper"
        return self.make(seed, self.changes)

    def data_names(self) -> list[str]:
        """Return the names of all data sets that are read, in alphabetical order."""
        specs = [*(job.recipe.data for job in self.jobs(0)), *self.extra_data]
        return sorted({spec.name for spec in specs})


def scales(jobs: Jobs, *, paper: At, cpu: At, smoke: At) -> dict[Scale, At]:
    """Return an experiment at all scales, with the paper's jobs where a scale has none of its own."""
    paper = replace(paper, gpus=1.0 if paper.gpus is None else paper.gpus)
    chosen: dict[Scale, At] = {"paper": paper, "cpu": cpu, "smoke": smoke}
    return {name: replace(at, make=at.make or jobs) for name, at in chosen.items()}


def job(recipe: Recipe, name: str = "{dataset}-{model}", *, after: str | None = None, **labels: Label) -> Job:
    """Return a job labelled with the data set and the network of its recipe.

    Args:
        recipe: recipe of the run.
        name: name of its folder; labels in braces are filled in.
        after: the job whose checkpoint it starts from.
        labels: further columns of the rows.
    """
    own: dict[str, Label] = {"dataset": recipe.data.name, "model": recipe.model.name.rpartition("/")[2]}
    named = {**own, **labels}
    return Job(name.format_map(named), recipe, named, after)


def checkpoint_of(job: str, seed: int, step: int) -> str:
    """Return the path of another run's weights, relative to the folder of a run of the same experiment."""
    return str(Path("..") / ".." / job / f"seed-{seed}" / "checkpoints" / f"step-{step:06d}.safetensors")


# ---------------------------------------------------------------- samples


def balanced(count: int, skip: int = 0) -> Sample:
    """Return a sample of `count` in total, equally many of each class, drawn with the seed of the run."""
    return Sample(method="balanced", count=count, skip=skip)


def first(count: int, skip: int = 0) -> Sample:
    """Return a sample of the first `count` in stored order, after skipping `skip`."""
    return Sample(method="first", count=count, skip=skip)


def digits(train: int, test: int) -> DataSpec:
    """Return the first samples of the 8 x 8 digits that come with scikit-learn."""
    return DataSpec(name="digits", train=first(train), test=first(test))
