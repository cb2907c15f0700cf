"""An experiment of two small runs, the second of which starts from a checkpoint of the first."""

from __future__ import annotations

from collapselab.data.recipe import DataSpec, Sample
from collapselab.experiments.claims.judges import falls
from collapselab.experiments.experiment import Experiment, curve_rows
from collapselab.experiments.grid import Grid
from collapselab.experiments.recipes import At, Changes, Job, checkpoint_of
from collapselab.frames import last_layer, rows_where
from collapselab.records.experiment import ExtraRow
from collapselab.records.recipe import Checkpoints, Measuring, ModelSpec, Optimizer, StartFrom
from collapselab.report.builders import VARIANCES, Lines
from collapselab.training import Recipe

STEPS = 12


def recipe(seed: int, **changes: object) -> Recipe:
    values = {
        "model": ModelSpec(options={"width": 8, "depth": 1}),
        "data": DataSpec(train=Sample(method="first", count=60), test=Sample(method="first", count=60)),
        "optimizer": Optimizer(learning_rate=0.05),
        "steps": STEPS,
        "batch_size": 32,
        "seed": seed,
        "num_threads": 1,
        "measuring": Measuring(
            count=3,
            metrics=("train_variance", "strong_test_variance"),
            weak_test_variance=True,
            spectra=False,
        ),
        "checkpoints": Checkpoints(at=(STEPS,), save_every=0),
    }
    return Recipe.model_validate(values | changes)


def jobs(seed: int, _: Changes | None = None) -> list[Job]:
    start = StartFrom(checkpoint=checkpoint_of("first", seed, STEPS))
    return [
        Job("first", recipe(seed), {"dataset": "digits", "model": "mlp"}),
        Job("second", recipe(seed, start=start), {"dataset": "digits", "model": "mlp"}, after="first"),
    ]


def weight_norm(runs: Grid, seed: int) -> list[ExtraRow]:
    model = runs.of(seed)["first"].model()
    return [{"norm": float(sum(weight.detach().square().sum() for weight in model.parameters()))}]


EXPERIMENT = Experiment(
    id="tiny/fig1",
    paper="Nobody",
    where="Fig. 1",
    title="Tiny",
    question="Does it run?",
    presets={"smoke": At("Everything.", seeds=2, make=jobs), "cpu": At("More.", seeds=2, make=jobs)},
    rows=curve_rows,
    charts=[
        Lines(
            "fig1",
            "Train variance",
            VARIANCES[:1],
            select=lambda rows: last_layer(rows_where(rows, job="first")),
        )
    ],
    claims=(falls("train_variance", "Train variance falls.", id="falls", fitted=None),),
    extras={"norm": weight_norm},
)
