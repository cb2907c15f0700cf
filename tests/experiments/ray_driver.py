"""A driver that tests start, kill and start again: four runs on a cluster, each of which takes seconds."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import tiny_experiment
from watching import Log

from collapselab.experiments.experiment import Experiment
from collapselab.experiments.recipes import At, Changes, Job, checkpoint_of
from collapselab.experiments.runner import Request, reproduce
from collapselab.experiments.running import Engine
from collapselab.records.recipe import Checkpoints, ModelSpec, StartFrom

STEPS = 300


def jobs(seed: int, _: Changes | None = None) -> list[Job]:
    recipe = tiny_experiment.recipe(
        seed,
        model=ModelSpec(name=f"{Path(__file__).with_name('slow_network.py')}:network"),
        steps=STEPS,
        checkpoints=Checkpoints(at=(STEPS,), save_every=0.2),
    )
    start = StartFrom(checkpoint=checkpoint_of("first", seed, STEPS))
    second = recipe.model_copy(update={"start": start})
    labels = {"dataset": "digits", "model": "slow"}
    return [Job("first", recipe, labels), Job("second", second, labels, after="first")]


EXPERIMENT: Experiment = replace(
    tiny_experiment.EXPERIMENT, presets={"smoke": At("Everything.", seeds=2, make=jobs)}
)


class Telling(Log):
    """Prints which runs have ended, and every note."""

    def run_ended(self, job: str, seed: int, number: int, runs: int, ended: str, seconds: float) -> None:
        print(f"ended {job} {seed}", flush=True)

    def note(self, text: str) -> None:
        print(f"note {text}", flush=True)

    def at_once(self, steps: int, steps_of_all: int, text: str) -> None:
        assert 0 <= steps <= steps_of_all
        print(f"progress {steps} {text}", flush=True)


def request(out: Path, engine: Engine | None = None) -> Request:
    return Request(EXPERIMENT, "smoke", out=out, engine=engine)


if __name__ == "__main__":
    from collapselab.experiments.engines.ray_cluster import RayCluster

    outcome = reproduce(request(Path(sys.argv[1]), RayCluster(sys.argv[2])), Telling())
    print(f"finished {outcome.folder}", flush=True)
