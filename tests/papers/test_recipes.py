"""Recipes of every experiment, scale and seed are those that stored runs were made with: else these would run again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from collapselab.experiments.recipes import Job
from collapselab.papers.hui2022.arms import BEFORE_ARMS, PAPYAN
from collapselab.registry import experiments

DIGESTS = json.loads((Path(__file__).parents[1] / "fixtures" / "recipe_digests.json").read_text())


def digest(jobs: list[Job]) -> str:
    """Over names, labels in their order, what each job starts from, and every value of its recipe.

    Those of the papyan arm follow from the others (test_arms.py), which have two more labels since there are arms.
    """
    values = [
        [
            job.name,
            [label for label in job.labels.items() if label[0] not in BEFORE_ARMS],
            job.after,
            job.recipe.model_dump(mode="json"),
        ]
        for job in jobs
        if job.labels.get("arm") != PAPYAN
    ]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize("place", list(DIGESTS))
def test_recipes_are_those_of_stored_runs(place: str) -> None:
    name, scale, seed = place.split()
    preset = {str(key): preset for key, preset in experiments()[name].presets.items()}[scale]
    assert digest(list(preset.jobs(int(seed)))) == DIGESTS[place]
