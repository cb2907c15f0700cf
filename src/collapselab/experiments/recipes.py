"""Recipes of experiments: the values of a paper, and the changes of smaller scales.

A figure declares its jobs once, with the paper's values, as a function of the seed and of changes; each scale lists its
changes:

    scales(
        jobs,
        paper=At("Nothing is reduced."),
        cpu=At("3,000 steps instead of 80,000.", changes={"steps": 3000}),
        smoke=At(SMOKE, seeds=1, changes={"data": digits(200, 200), "steps": 30}),
    )
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from collapselab.data.recipe import DataSpec, Sample
from collapselab.experiments.jobs import Job, Preset
from collapselab.records.experiment import Label, Scale
from collapselab.records.recipe import Recipe

Changes = Mapping[str, object]
# Jobs of a seed, with changes to their recipes.
Jobs = Callable[[int, Changes], Sequence[Job]]

SMOKE = "This scale only tests that everything works; its verdicts mean nothing."


# ---------------------------------------------------------------- scales


@dataclass(frozen=True)
class At:
    """An experiment at one scale.

    Attributes:
        reduced: text about what is smaller than in the paper, and what the paper does not specify.
        seeds: default number of seeds.
        changes: overrides for every recipe, by path.
        jobs: jobs to use instead of those of the paper.
    """

    reduced: str
    seeds: int = 3
    changes: Changes = field(default_factory=dict)
    jobs: Jobs | None = None


def scales(jobs: Jobs, *, paper: At, cpu: At, smoke: At) -> dict[Scale, Preset]:
    """Return the presets of an experiment.

    Args:
        jobs: jobs with the paper's values.
        paper, cpu, smoke: what each scale changes.
    """
    chosen: dict[Scale, At] = {"paper": paper, "cpu": cpu, "smoke": smoke}
    return {name: _preset(at.jobs or jobs, at) for name, at in chosen.items()}


def _preset(jobs: Jobs, at: At) -> Preset:
    return Preset(lambda seed: jobs(seed, at.changes), at.seeds, at.reduced)


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


# ---------------------------------------------------------------- samples


def balanced(count: int, skip: int = 0) -> Sample:
    """Return a sample of `count` in total, equally many of each class, drawn with the seed of the run."""
    return Sample(method="balanced", count=count, skip=skip)


def first(count: int, skip: int = 0) -> Sample:
    """Return a sample of the first `count` in stored order, after skipping `skip`."""
    return Sample(method="first", count=count, skip=skip)


def digits(train: int, test: int) -> DataSpec:
    """Return the first samples of the embedded 8 x 8 digits."""
    return DataSpec(name="digits", train=first(train), test=first(test))
