"""The experiments of all papers, by id."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from collapselab.checks import near_matches
from collapselab.errors import InputError
from collapselab.experiments.experiment import Experiment


@cache
def experiments() -> Mapping[str, Experiment]:
    """By id, in the order of the papers; the second names of an experiment are not in it."""
    from collapselab.papers.hui2022.experiments import EXPERIMENTS

    return {experiment.id: experiment for experiment in EXPERIMENTS}


def find_experiment(name: str) -> Experiment:
    """By id or second name.

    Raises:
        InputError: there is none, with near matches.
    """
    known = experiments().values()
    by_name = {name: experiment for experiment in known for name in (experiment.id, *experiment.also)}
    if name not in by_name:
        near = near_matches(name, by_name)
        hint = near if near.startswith("did you mean") else "see collapselab reproduce list"
        raise InputError(f"unknown experiment {name!r}; {hint}")
    return by_name[name]
