"""How far VCI can be trusted at finite n: adjusted VCI against the value of a whole test set.

docs/findings/vci-finite-samples.md has the hypotheses, the criteria and the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from collapselab.data.recipe import DataSpec
from collapselab.experiments.claims import Claim, Number, Void
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.grid import Grid
from collapselab.experiments.recipes import SMOKE, At, Changes, Job, balanced, first, job, scales
from collapselab.findings import vci_agreement as of
from collapselab.findings import vci_charts as charts
from collapselab.findings.vci_draws import measure_draws
from collapselab.records.judgement import Kind
from collapselab.records.recipe import Measuring, ModelSpec, Optimizer, Recipe

_WIDTHS = (32, 64, 128, 256, 512)
# Depth, steps and weight decay of the networks of each width.
_TRAINED = ((1, 150, 0.0), (1, 1000, 0.0), (2, 1000, 5e-3), (3, 500, 5e-4))
_DATA = (
    DataSpec(name="cifar10", train=balanced(5000), test=balanced(10_000), image_size=(12, 12)),
    DataSpec(name="mnist", train=first(2000), test=balanced(7000), image_size=(14, 14)),
)
_DIGITS = (DataSpec(name="digits", train=first(1000), test=balanced(700)),)


def _jobs(
    seed: int,
    changes: Changes,
    sets: tuple[DataSpec, ...] = _DATA,
    widths: tuple[int, ...] = _WIDTHS,
    shorter: int = 1,
) -> list[Job]:
    measuring = Measuring(count=2, layers="last", metrics=("vci",), weak_test_variance=False, spectra=False)
    jobs = []
    for data, width, (depth, steps, decay) in ((a, b, c) for a in sets for b in widths for c in _TRAINED):
        recipe = Recipe(
            model=ModelSpec(options={"width": width, "depth": depth}),
            data=data,
            optimizer=Optimizer(learning_rate=0.02, weight_decay=decay),
            steps=steps // shorter,
            seed=seed,
            measuring=measuring,
        )
        changed, name = recipe.with_changes(changes), "{dataset}-{width}-{depth}-{num_steps}"
        jobs.append(job(changed, name, width=width, depth=depth, weight_decay=decay, num_steps=recipe.steps))
    return jobs


def draw_rows(runs: Grid) -> pd.DataFrame:
    """Return VCI of every network, kind of features and draw; see `measure_draws`."""
    rows = []
    for seed in runs.seeds:
        labels = {name: run.job.labels for name, run in runs.of(seed).items()}
        ended = {name: run.record.ended for name, run in runs.of(seed).items()}
        for row in runs.extra("draws", seed):
            name = str(row["job"])
            rows.append({"seed": seed, "ended": ended[name]} | dict(labels[name]) | row)
    return pd.DataFrame(rows).astype({"vci": float, "vci_adjusted": float})


# ---------------------------------------------------------------- claims


def _claim(
    id: str,
    says: str,
    numbers: Callable[[pd.DataFrame, float], list[Number]],
    *bounds: float,
    notes: Sequence[str] = (),
    kind: Kind = "finding",
) -> Claim:
    own: dict[str, Any] = {"per": ("dataset",), "fitted": None, "notes": notes, "kind": kind}
    return Claim(id=id, statement=says, numbers=numbers, thresholds=bounds, **own)


def _at(n: int) -> str:
    return f"n = {n}"


def _null(rows: pd.DataFrame, tolerance: float) -> list[Number]:
    found = []
    for n, adjusted in of.drawn(rows, "permuted", "vci_adjusted").items():
        raw = of.drawn(rows, "permuted", "vci")[n]
        found += [
            Number(f"smallest VCI of permuted labels, {_at(n)}", float(raw.min())),
            Number(
                f"mean adjusted VCI of permuted labels, {_at(n)}",
                float(adjusted.mean()),
                near=(1.0, tolerance),
            ),
        ]
    return found


def _closer(rows: pd.DataFrame, factor: float) -> list[Number]:
    found = []
    for n, raw in of.relative_errors(rows, "test", "vci").items():
        adjusted = of.relative_errors(rows, "test", "vci_adjusted")[n]
        a, b = of.root_mean_square(raw), of.root_mean_square(adjusted)
        found += [
            Number(f"root mean square relative error of VCI, {_at(n)}", a),
            Number(f"root mean square relative error of adjusted VCI, {_at(n)}", b),
            Number(f"ratio of the two, {_at(n)}", a / b, above=factor),
        ]
    return found


def _bias(rows: pd.DataFrame, bound: float, kind: str, *, is_large: bool = False) -> list[Number]:
    errors, what = (
        of.relative_errors(rows, kind, "vci_adjusted"),
        "largest relative bias of adjusted VCI of any width",
    )
    return [
        Number(f"{what}, {_at(n)}", value, above=bound)
        if is_large
        else Number(f"{what}, {_at(n)}", value, below=bound)
        for n, value in of.largest_bias(rows, errors).items()
    ]


def _shape(rows: pd.DataFrame, bound: float) -> list[Number]:
    found, real = [], of.relative_errors(rows, "test", "vci_adjusted")
    for n, errors in of.relative_errors(rows, "unequal", "vci_adjusted").items():
        a, b = float(real[n].mean()), float(errors.mean())
        found += [
            Number(f"relative bias of adjusted VCI, real features, {_at(n)}", a),
            Number(f"the same, Gaussian features with their covariances, {_at(n)}", b),
            Number(f"difference of the two, {_at(n)}", b - a, above=bound, scale="difference"),
        ]
    return found


def _predicted(rows: pd.DataFrame, bound: float) -> list[Number]:
    found, errors = [], of.relative_errors(rows, "test", "vci_adjusted")
    predicted = of.predicted_biases(rows, "test")
    for n in sorted(errors)[1:3]:  # at 1,000 and 2,000 samples
        a, b = float(errors[n].mean()), float(predicted[n].mean())
        found += [
            Number(f"relative bias of adjusted VCI, mean over networks, {_at(n)}", a),
            Number(f"relative bias that the effective rank predicts, {_at(n)}", b),
            Number(f"difference of the two, {_at(n)}", a - b, near=(0.0, bound)),
        ]
    return found


def _ranks_better(rows: pd.DataFrame, bound: float, kind: str) -> list[Number]:
    found, adjusted = [], of.rankings(rows, kind, "vci_adjusted")
    for n, tau in of.rankings(rows, kind, "vci").items():
        found += _compared(tau, adjusted[n], bound, f", {_at(n)}")
    return found


def _ranks_mixed(rows: pd.DataFrame, bound: float) -> list[Number]:
    return _compared(of.mixed_ranking(rows, "vci"), of.mixed_ranking(rows, "vci_adjusted"), bound, "")


def _compared(raw: float, adjusted: float, bound: float, where: str) -> list[Number]:
    return [
        Number(f"Kendall's rank correlation, VCI{where}", raw),
        Number(f"Kendall's rank correlation, adjusted VCI{where}", adjusted),
        Number(f"difference of the two{where}", adjusted - raw, above=bound, scale="difference"),
    ]


def _ranks_well(rows: pd.DataFrame, bound: float) -> list[Number]:
    found = of.rankings(rows, "test", "vci_adjusted")
    least = sorted(found)[1:]  # from 1,000 samples on
    what = "Kendall's rank correlation, adjusted VCI"
    return [Number(f"{what}, {_at(n)}", found[n], above=bound, scale="difference") for n in least]


def _same_width(rows: pd.DataFrame, bound: float) -> list[Number]:
    what = "share of pairs of equally wide networks that adjustment puts in another order"
    return [
        Number(f"{what}, {_at(n)}", share, below=bound, scale="difference")
        for n, share in of.reordered(rows).items()
    ]


def _train(rows: pd.DataFrame, bound: float) -> list[Number]:
    train, test = of.whole(rows, "train", "vci_adjusted"), of.whole(rows, "test", "vci_adjusted")
    if np.isnan(train).any():
        raise Void("too few train samples")
    ratio = float(np.exp(np.mean(np.log(np.maximum(train, 1e-12) / test))))
    return [
        Number("adjusted VCI, train over test features, geometric mean over networks", ratio, below=bound)
    ]


_EXPLORED = ("Not part of the hypothesis: this asks where it ends.",)
CLAIMS = (
    _claim("null", "Where labels say nothing, adjusted VCI is 1 on average.", _null, 0.01, 0.005, 0.02),
    _claim(
        "adjusted-is-closer",
        "Adjusted VCI of a part of the test set is closer to the value of the whole set than VCI is, at every n.",
        _closer, 2.0, 1.0, 3.0, 5.0,
    ),
    _claim(
        "small-bias",
        "The relative bias of adjusted VCI is below 5 % at every n and width.",
        partial(_bias, kind="test"), 0.05, 0.02, 0.1,
    ),
    _claim(
        "ranks-better",
        "Adjusted VCI ranks networks of different widths better than VCI does, at every n.",
        partial(_ranks_better, kind="test"), 0.0, 0.05, 0.1,
    ),
    _claim(
        "ranks-well",
        "From n = 1,000 on, adjusted VCI ranks networks as the whole test set does.",
        _ranks_well, 0.8, 0.7, 0.9,
    ),
    _claim(
        "ranks-better-at-different-n",
        "Adjusted VCI ranks networks better than VCI does where each network was measured with another n.",
        _ranks_mixed, 0.0, 0.1, 0.2,
    ),
    # Where Sigma_T has full rank, adjustment is a function of width and n times VCI.
    _claim(
        "same-width", "The adjustment does not change the order of equally wide networks measured with the same n.",
        _same_width, 0.01, 0.001, kind="identity",
    ),
    _claim(
        "train-features", "On train features, adjusted VCI is more than a tenth below that of test features.", _train, 0.9, 0.8, 0.7,
    ),
    _claim(
        "unequal-covariances",
        "Gaussian features whose classes have the covariances of the test features leave a relative bias above 5 %.",
        partial(_bias, kind="unequal", is_large=True), 0.05, 0.02, 0.1,
    ),
    _claim(
        "equal-covariances",
        "Gaussian features whose classes have equal covariances leave a relative bias below 5 %.",
        partial(_bias, kind="equal"), 0.05, 0.02,
    ),
    _claim(
        "leverage-predicts-bias",
        "The bias that adjusted VCI keeps is the one that the effective rank predicts, at n = 1,000 and 2,000.",
        _predicted, 0.02, 0.01, 0.03,
    ),
    _claim(
        "ranks-better-than-exactly-known",
        "Adjusted VCI ranks Gaussian features, whose VCI is known exactly, better than VCI does.",
        partial(_ranks_better, kind="unequal"), 0.0, 0.05, notes=_EXPLORED,
    ),
    _claim(
        "not-only-covariances",
        "Adjusted VCI of real features is lower than of Gaussian features with the same class means and covariances.",
        _shape, 0.0, 0.02, 0.05, notes=_EXPLORED,
    ),
)  # fmt: skip


_WHOLE = At("Nothing is reduced: the whole experiment is small enough for two CPU cores.", seeds=5)

EXPERIMENT = Experiment(
    id="findings/vci-finite-samples",
    paper="collapselab",
    where="docs/findings/vci-finite-samples.md",
    title="How far VCI can be trusted at finite n",
    question="VCI of few samples is too low, the more so the wider the layer. Does adjusted VCI of a part of a test set give "
    "the value of the whole set, and rank networks as the whole set does?",
    presets=scales(
        _jobs,
        paper=_WHOLE,
        cpu=_WHOLE,
        smoke=At(
            f"Networks of 12, 24 and 36 units on embedded digits, a tenth of the steps. {SMOKE}",
            seeds=1,
            make=partial(_jobs, sets=_DIGITS, widths=(12, 24, 36), shorter=10),
        ),
    ),
    rows=draw_rows,
    extras={"draws": measure_draws},
    charts=[charts.errors, charts.rankings, charts.biases, charts.leverages],
    claims=CLAIMS,
    is_whole=True,
)
