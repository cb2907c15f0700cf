"""Figure 6: layers collapse one after another, from the last one down."""

from __future__ import annotations

from collapselab.data.recipe import DataSpec
from collapselab.experiments.claims import judges
from collapselab.experiments.claims.judges import ordered, stays
from collapselab.experiments.experiment import Experiment, Job, Preset
from collapselab.experiments.rows import curve_rows
from collapselab.frames import hidden_layers, rows_where
from collapselab.papers.hui2022.common import (
    BATCH_SIZE,
    MLP,
    MLP_LEARNING_RATE,
    MOMENTUM,
    PAPER,
    STANDARDIZE_NOTE,
    STEPS,
    balanced,
    changed,
    first,
    images,
)
from collapselab.records.recipe import Measuring, ModelSpec, Optimizer, Option
from collapselab.report.builders import VANISHED, VARIANCES, Lines, by_layer, zero_train_error
from collapselab.training import Recipe

_METRICS = (
    "normalized_within", "train_variance", "strong_test_variance", "cdnv", "ncc_agreement", "ncc_accuracy",
)  # fmt: skip


def _recipe(
    data: DataSpec, options: dict[str, Option], steps: int, count: int, rate: float, seed: int
) -> Recipe:
    return Recipe(
        model=ModelSpec(name="mlp", options=options),
        data=data,
        optimizer=Optimizer(learning_rate=rate, momentum=MOMENTUM),
        steps=steps,
        batch_size=BATCH_SIZE,
        seed=seed,
        measuring=Measuring(count=count, metrics=_METRICS, spectra=False),
    )


def _paper(seed: int) -> list[Job]:
    data = images("mnist", train=balanced(1000), test=balanced(200))
    return [
        Job(
            "mnist-mlp",
            _recipe(data, MLP, STEPS, 24, MLP_LEARNING_RATE, seed),
            {"dataset": "mnist", "model": "mlp"},
        )
    ]


def _smoke(seed: int) -> list[Job]:
    data = DataSpec(name="digits", train=first(200), test=first(200))
    small = _recipe(data, MLP | {"width": 32}, 300, 6, 0.05, seed)
    return [Job("digits-mlp", small, {"dataset": "digits", "model": "mlp"})]


_PAPERS_NUMBERS = (
    "Nothing: the paper's own numbers, 1,000 training and 200 test digits, 80,000 steps. It does not say the batch size, "
    f"which is 128 as in sec. 3.2, nor which digits; they are drawn anew for each seed. {STANDARDIZE_NOTE}"
)

EXPERIMENT = Experiment(
    id="hui2022/fig6",
    paper=PAPER,
    where="Fig. 6, sec. 5.1",
    title="Cascading collapse",
    question="Do earlier layers collapse too, and in which order?",
    presets={
        "paper": Preset(_paper, seeds=3, reduced=_PAPERS_NUMBERS),
        "cpu": Preset(_paper, seeds=3, reduced=_PAPERS_NUMBERS),
        "smoke": Preset(
            _smoke,
            seeds=2,
            reduced="200 + 200 digits of 8 x 8 pixels, layers of 32, 300 steps with learning rate 0.05. Shows that the "
            "machinery works, nothing else.",
        ),
    },
    rows=curve_rows,
    charts=[
        Lines(
            "fig6",
            "Train variance of every hidden layer",
            VARIANCES[:1],
            select=hidden_layers,
            split=by_layer,
            marks=(zero_train_error, VANISHED),
        ),
        Lines(
            "test-variance",
            "Strong test variance of every hidden layer",
            VARIANCES[1:2],
            select=hidden_layers,
            split=by_layer,
            on_paper=False,
        ),
    ],
    claims=changed(
        ordered(
            "train_variance", "The last hidden layer collapses most, the first one least.", rows=hidden_layers
        ),
        judges.first("The last hidden layer collapses first."),
        stays(
            "train_variance",
            "The first hidden layer saturates at a finite train variance in the time observed.",
            rows=lambda rows: rows_where(rows, depth=1),
        ),
    ),
)
