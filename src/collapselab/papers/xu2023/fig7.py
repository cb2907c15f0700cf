"""Fig. 7, tables 1 and 2: which metric of collapse tells how well a network transfers, whatever made it collapse."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd

from collapselab.experiments.claims import Claim, Number
from collapselab.experiments.claims.judges import correlates
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.recipes import SMOKE, At, scales
from collapselab.frames import numbers, rows_where
from collapselab.inference import rank_correlation
from collapselab.papers.xu2023 import common, recipes, transfer
from collapselab.papers.xu2023.curves import column_name
from collapselab.papers.xu2023.transfer import REGULARISER, TEMPERATURE
from collapselab.papers.xu2023.transfer_charts import accuracies, gains, published
from collapselab.papers.xu2023.transfer_jobs import (
    CPU_PRODUCT,
    CPU_STEPS,
    CPU_WEIGHTS,
    TEMPERATURES,
    WEIGHTS,
    imagenet_jobs,
    small_jobs,
)


def _every_row(rows: pd.DataFrame) -> pd.DataFrame:
    return rows


def _flips(column: str, sign: int, says: str) -> Claim:
    """The rank correlation of a metric with the gain has a sign where the temperature varies, the other where the weight does."""

    def measure(rows: pd.DataFrame, beyond: float) -> Sequence[Number]:
        found = []
        for group, wanted in ((TEMPERATURE, sign), (REGULARISER, -sign)):
            points = rows_where(rows, group=group)
            rho = rank_correlation(numbers(points, column), numbers(points, "gain"))
            bound: dict[str, Any] = {"above": beyond} if wanted > 0 else {"below": 0.0 - beyond}
            what = f"rank correlation of the gain with {column_name(column)}, {group} ({len(points)} points)"
            found.append(Number(what, rho, scale="correlation", clip=1 - 1 / max(len(points), 2), **bound))
        return found

    id = f"{column.removeprefix('train_').replace('_', '-')}-flips"
    return Claim(id=id, statement=says, numbers=measure, thresholds=(0.0, 0.3, 0.5), per=(), fitted=None)


def _correlated(id: str, column: str, sign: int, says: str, **more: Any) -> Claim:
    own: dict[str, Any] = {"per": ("group",), "rows": _every_row, "fitted": None}
    return correlates(column, "gain", says, sign=sign, id=id, **(own | more))


_OTHERS = {"fuzziness": 1, "squared_distance": 1, "cosine_similarity": -1}
_LESS = "Networks trained with different temperatures transfer better the less they have collapsed by {}."
_TURNS = "The correlation of {} with transfer has another sign if the weight of the regulariser varies than if the temperature does."
CLAIMS = (
    _correlated("vci-keeps-its-sign", "train_vci_adjusted", 1,
                "Networks of higher VCI transfer better, both if the temperature varies and if the weight of the regulariser does."),
    *(_correlated(f"{name.replace('_', '-')}-by-temperature", f"train_{name}", sign, _LESS.format(name.replace("_", " ")),
                  only={"group": TEMPERATURE}) for name, sign in _OTHERS.items()),
    *(_flips(f"train_{name}", sign, _TURNS.format(name.replace("_", " "))) for name, sign in _OTHERS.items()),
)  # fmt: skip

_MISSING = "the text that this project has lacks those of the paper"


def _values(weights: tuple[float, ...]) -> str:
    temperatures, weights_ = (", ".join(f"{one:g}" for one in values) for values in (TEMPERATURES, weights))
    return f"Temperatures {temperatures} and weights {weights_} are this project's choice; {_MISSING}."


EXPERIMENT = Experiment(
    id="xu2023/fig7",
    paper=common.PAPER,
    where="Fig. 7, tables 1 and 2, sec. 6.3",
    title="Which metric of collapse tells how well a network transfers",
    question="Networks are trained with different temperatures, or with different weights of a regulariser. Does a metric of collapse "
    "correlate with their transfer in the same way in both groups?",
    presets=scales(
        imagenet_jobs,
        paper=At(f"Nothing is reduced: ResNet-50 on ImageNet for 300 epochs, linear probes on ten data sets with 97 penalties. {recipes.NUMBERS} {_values(WEIGHTS)}",
                 seeds=1, extra_data=[task.data for task in transfer.TASKS["imagenet"]]),
        cpu=At(
            "ResNet-18 of timm with a quarter of the channels, trained on 500 images of each of six classes of CIFAR-10; "
            f"{CPU_STEPS:,} steps with batches of {recipes.CPU_BATCH}, a learning rate of {recipes.CPU_RATE:g} and a weight decay of "
            f"{recipes.kept_decay(CPU_PRODUCT, CPU_STEPS):g}. Three downstream tasks instead of ten: the four other classes, all ten classes "
            f"(other images), and MNIST digits, 2,000 training images each; features are standardised. {recipes.NUMBERS} {_values(CPU_WEIGHTS)}",
            seeds=5,
            make=partial(small_jobs, data=transfer.SIX_CLASSES, num_features=128, steps=CPU_STEPS),
            extra_data=[task.data for task in transfer.TASKS["cifar10"]],
        ),
        smoke=At(
            f"The narrow network on six of ten digits of 8 x 8 pixels, probed on the others and on all ten; 30 steps with batches of 32. {SMOKE}",
            seeds=1,
            changes={**recipes.SMOKE_CHANGES, "augmentation": {}},
            make=partial(small_jobs, data=transfer.SIX_DIGITS, num_features=20, steps=30),
        ),
    ),
    rows=transfer.transfer_rows,
    extras={"probes": transfer.probe_tasks},
    charts=[gains, published, accuracies],
    claims=CLAIMS,
)  # fmt: skip
