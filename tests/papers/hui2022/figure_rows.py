"""Made-up rows whose figures are known in closed form, and what a drawn figure holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pandas as pd

from collapselab.experiments.experiment import Experiment
from collapselab.papers.hui2022 import fig2, fig3, fig4, fig5, fig6, footnote2, sec2
from collapselab.registry import find_experiment
from collapselab.report.chart import Chart
from collapselab.report.layout import Drawing, Stroke, lay_out

VARIANCES = ("train_variance", "strong_test_variance", "weak_test_variance")
STEPS = (0, 1, 10, 100, 1000)
# Seeds differ by these factors: their geometric mean is 1, their arithmetic mean is not.
FACTORS = (0.5, 1.0, 2.0)


def falling(step: int, floor: float) -> float:
    return max(2.0 * 10.0 ** -math.log10(step + 1), floor)


def curves(
    dataset: str = "cifar10",
    model: str = "resnet18",
    *,
    seeds: int = 3,
    depths: int = 1,
    floor: float = 1e-3,
    test: float = 0.4,
    weak: float = 0.2,
    steps: tuple[int, ...] = STEPS,
    **labels: Any,
) -> pd.DataFrame:
    """One row per seed, step and layer; deeper layers collapse more."""
    rows = []
    for seed in range(seeds):
        for step in steps:
            for depth in range(depths):
                is_last = depth == depths - 1
                factor = FACTORS[seed] if seeds == 3 else 1.0
                rows.append(
                    {"job": f"{dataset}-{model}-{labels}", "dataset": dataset, "model": model} | labels |
                    {"seed": seed, "step": step, "layer": f"layers.{depth}", "depth": depth, "is_last": is_last,
                     "train_variance_final": factor * falling(step, floor * 10 ** (depths - 1 - depth)),
                     "strong_test_variance_final": factor * (test + falling(step, 0)),
                     "weak_test_variance_final": factor * weak if is_last else math.nan,
                     "train_accuracy": 1.0 if step >= 10 else 0.5, "test_accuracy": 0.4}
                )  # fmt: skip
    table = pd.DataFrame(rows)
    # Over references of the same step: three times that, but at the last step, where both agree.
    factors = table["step"].map(lambda step: 1.0 if step == max(steps) else 3.0)
    return table.assign(**{name: table[f"{name}_final"] * factors for name in VARIANCES})


def grid(seeds: int = 3) -> pd.DataFrame:
    pairs = [(name, model) for name in ("mnist", "fashion_mnist", "cifar10", "svhn")
             for model in ("resnet18", "densenet201", "vgg11_bn")]  # fmt: skip
    pairs += [("stl10", model) for model in ("resnet50", "densenet201", "vgg11_bn")]
    return pd.concat([curves(*pair, seeds=seeds) for pair in pairs], ignore_index=True)


def sizes(seeds: int = 3) -> pd.DataFrame:
    """More samples: less train collapse, more test collapse."""
    parts = [
        curves(*pair, seeds=seeds, floor=2e-8 * size, test=40 / size**0.5, steps=(0, 10**9), num_train=size)
        for pair in (("cifar10", "resnet18"), ("fashion_mnist", "vgg11_bn"))
        for size in (12_500, 25_000, 30_000, 40_000, 50_000)
    ]
    return pd.concat(parts, ignore_index=True)


def transfer(seeds: int = 3) -> pd.DataFrame:
    rows = []
    for dataset, model in (("mnist", "mlp"), ("cifar10", "resnet18")):
        for seed in range(seeds):
            for place, step in enumerate((100, 1000, 10_000)):
                head = {"dataset": dataset, "model": model, "seed": seed, "pretrain_step": step,
                        "train_variance_final": (FACTORS[seed] if seeds == 3 else 1) * 10.0**-place,
                        "train_variance": 0.5 * 10.0**-place, "num_test": 100}  # fmt: skip
                rows.append(head | {"kind": "pretraining", "learning_rate": math.nan, "accuracy": 0.99})
                for rate, accuracy in (
                    (0.001, 0.5),
                    (0.01, 0.8 - 0.1 * place + 0.01 * seed),
                    (0.1, math.nan),
                ):
                    rows.append(head | {"kind": "fine_tuning", "learning_rate": rate, "accuracy": accuracy})
                rows.append(head | {"kind": "linear_probe", "learning_rate": math.nan, "accuracy": 0.3})
    return pd.DataFrame(rows)


def constructions(seeds: int = 3) -> pd.DataFrame:
    table = {
        "network": (1e-4, 0.2, 0.1, 1.0, 0.95),
        "collapsed": (1e-3, 0.1, 0.1, 1.0, 0.96),
        "one_hot_decisions": (0.0, 0.1, 0.0, 1.0, 0.95),
        "memoriser": (0.0, math.nan, 1.0, 1.0, 0.1),
        "memoriser_weak": (0.0, 90.0, 0.0, 1.0, 0.1),
        "one_epoch": (0.9, 0.8, 0.5, 0.94, 0.93),
        "super_class": (1e-3, 0.1, 0.05, 1.0, 0.97),
    }
    columns = (
        "train_variance",
        "strong_test_variance",
        "weak_test_variance",
        "train_accuracy",
        "test_accuracy",
    )
    rows = []
    for seed in range(seeds):
        for name, values in table.items():
            known = {"bound": 0.2, "probe_accuracy": 0.19} if name == "super_class" else {}
            rows.append(
                {"construction": name, "seed": seed} | dict(zip(columns, values, strict=True)) | known
            )
    return pd.DataFrame(rows)


def dropouts(seeds: int = 3) -> pd.DataFrame:
    return pd.concat(
        [
            curves("cifar10", "vgg11_bn", seeds=seeds, floor=0.2, dropout=0.5),
            curves("mnist", "mlp", seeds=seeds, floor=0.01, dropout=0.0),
            curves("mnist", "mlp", seeds=seeds, floor=0.001, dropout=0.5),
        ],
        ignore_index=True,
    )


FIGURES: dict[str, tuple[Experiment, Callable[[int], pd.DataFrame]]] = {
    "fig1": (fig3.EXPERIMENT, lambda seeds: curves(seeds=seeds)),
    "fig2": (fig2.EXPERIMENT, grid),
    "fig2-same-step": (fig2.EXPERIMENT, grid),
    "fig3": (fig3.EXPERIMENT, lambda seeds: curves(seeds=seeds)),
    "fig4": (fig4.EXPERIMENT, sizes),
    "fig5": (fig5.EXPERIMENT, transfer),
    "fig6": (fig6.EXPERIMENT, lambda seeds: curves("mnist", "mlp", seeds=seeds, depths=4)),
    "footnote2": (footnote2.EXPERIMENT, dropouts),
    "sec2": (sec2.EXPERIMENT, constructions),
}


def charts(experiment: Experiment, rows: pd.DataFrame) -> dict[str, Chart]:
    """All charts of an experiment, by id."""
    rows = rows if "arm" in rows else rows.assign(**experiment.before)
    return {chart.id: chart for make in experiment.charts for chart in make(rows)}


@cache
def _charts_of(experiment: str, rows: Callable[[int], pd.DataFrame], seeds: int) -> dict[str, Chart]:
    return charts(find_experiment(experiment), rows(seeds))


@cache
def drawing(name: str, seeds: int = 3) -> Drawing:
    """What a figure draws of the made-up rows."""
    experiment, rows = FIGURES[name]
    return lay_out(_charts_of(experiment.id, rows, seeds)[name])


def strokes(drawing: Drawing, at: int = 0) -> dict[str, Stroke]:
    """The means of a panel, by name."""
    return {stroke.name: stroke for stroke in drawing.panels[at].strokes if not stroke.faint}
