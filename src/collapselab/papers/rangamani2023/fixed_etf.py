"""Figure 6, sec. 5.3: accuracy where only the first L layers are trained and the others are fixed simplex ETFs.

Controls, which the paper lacks: identity matrices and random orthogonal ones in the place of ETFs. An ETF of as many vectors
as dimensions is the identity less a matrix of rank one, so that a network with such layers may simply be a shallower one.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from collapselab.experiments.claims.judges import at_end
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.recipes import SMOKE, At, Changes, Job, balanced, digits, job, scales
from collapselab.frames import rows_where
from collapselab.papers.rangamani2023 import common
from collapselab.papers.rangamani2023.common import MLP, images, kept_decay, paper_steps, recipe
from collapselab.papers.rangamani2023.fixed_rows import (
    ETF,
    FREE,
    IDENTITY,
    ORTHOGONAL,
    accuracy_rows,
    collapsed_mark,
    first_collapsed,
    lost,
    with_free,
)
from collapselab.records.recipe import ModelSpec
from collapselab.report.builders import Lines, Quantity
from collapselab.report.chart import TEST, Axis, Look

_CPU_STEPS = 3000
_POINTS = 0.005  # half a percentage point
_NAMES = {ETF: "simplex ETFs", IDENTITY: "identity", ORTHOGONAL: "random orthogonal"}


def _kinds(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(name, rows_where(rows, fixed=kind)) for kind, name in _NAMES.items()]


def _network(
    data_changes: Changes, name: str, seed: int, steps: int, changes: Changes, depth: int
) -> list[Job]:
    free = recipe(ModelSpec(name=MLP), images(name), seed, steps).with_changes(
        {"measuring.count": 2, "measuring.layers": "last", "measuring.metrics": ("normalized_within",), "checkpoints.at": "last",
         "model.options.depth": depth, **data_changes, **changes}
    )  # fmt: skip
    fixed = [
        job(free.with_changes({"model.options.trained": trained, "model.options.fixed": kind, "checkpoints.at": ()}),
            "{dataset}-{fixed}-{trained}", fixed=kind, trained=trained)
        for kind in (ETF, IDENTITY, ORTHOGONAL)
        for trained in range(1, depth + 1)
    ]  # fmt: skip
    return [job(free, "{dataset}-{fixed}", fixed=FREE, trained=depth + 1), *fixed]


def _jobs(seed: int, changes: Changes) -> list[Job]:
    names = ("mnist", "fashion_mnist")
    return [one for name in names for one in _network({}, name, seed, paper_steps(name), changes, 10)]


def _cpu(seed: int, changes: Changes) -> list[Job]:
    return _network(
        {"data.train": balanced(7000), "model.options.width": 256}, "mnist", seed, _CPU_STEPS, changes, 10
    )


def _smoke(seed: int, changes: Changes) -> list[Job]:
    return _network({"data": digits(300, 200), "model.options.width": 32}, "digits", seed, 100, changes, 3)


def _claim(id: str, says: str, other: str, *, collapsed: bool) -> Any:
    bounds: dict[str, Any] = (
        {"below": (_POINTS, 0.0, 2 * _POINTS)} if collapsed else {"above": (_POINTS, 0.0, 2 * _POINTS)}
    )
    shown = ("test_accuracy", f"test_accuracy_{other}", "first_collapsed_layer")
    return at_end(f"test_accuracy_lost_against_{other}", says, scale="difference", beside=shown, id=id, rows=lost(other, collapsed=collapsed),
                  per=("dataset",), fitted=None, **bounds)  # fmt: skip


_AT = "All collapsed layers fixed to ETFs lose less than 0.5 points of test accuracy against"
_BELOW = "With uncollapsed layers fixed to ETFs too, more than 0.5 points of test accuracy are lost against"
_OPEN = (
    "The weights of the other layers are fixed; batch norm of all layers and the bias of the classifier are trained. Every L from "
    f"1 to 10, of 11 layers with the classifier. {common.LEFT_OPEN}"
)

EXPERIMENT = Experiment(
    id="rangamani2023/fixed-etf",
    paper=common.PAPER,
    where="Fig. 6, sec. 5.3",
    title="Collapsed layers fixed to simplex ETFs",
    question="Does a network stay as accurate if its collapsed layers are fixed to simplex ETFs, and is this due to ETFs?",
    presets=scales(
        _jobs,
        paper=At(
            f"Nothing is reduced: MNIST and FashionMNIST, layers of 1,024 units, 350 epochs. Controls are added. {_OPEN}"
        ),
        cpu=At(
            "7,000 digits of MNIST, equally many of each class, instead of 60,000; all 2,000 test digits of the copy that was used; "
            f"layers of 256 units; {_CPU_STEPS:,} steps. {common.CPU_DECAY_NOTE} No FashionMNIST. {_OPEN}",
            seeds=5,
            changes={"optimizer.weight_decay": kept_decay(_CPU_STEPS)},
            make=_cpu,
        ),
        smoke=At(
            f"300 digits of 8 x 8 pixels, three layers of 32 units, 100 steps. {SMOKE}",
            seeds=1,
            changes={"optimizer.learning_rate": 0.05, "optimizer.weight_decay": 0.01},
            make=_smoke,
        ),
    ),
    rows=accuracy_rows,
    extras={"collapsed": first_collapsed},
    charts=[
        Lines(
            "fixed-etf",
            "Test accuracy by number of trained layers",
            [Quantity("test_accuracy", "test accuracy", Look(TEST))],
            "The other layers are fixed; the last point is the free network, all of whose layers are trained.",
            x="trained",
            axes=(Axis("trained layers L", "linear"), Axis("test accuracy", "tight", percent=True)),
            select=with_free,
            split=_kinds,
            references=False,
            marks=(collapsed_mark,),
        )
    ],
    claims=(
        _claim("etf-as-good", f"{_AT} the free network.", FREE, collapsed=True),
        _claim("etf-worse", f"{_BELOW} the free network.", FREE, collapsed=False),
        _claim("etf-as-good-as-identity", f"{_AT} identity matrices there.", IDENTITY, collapsed=True),
        _claim(
            "etf-as-good-as-orthogonal",
            f"{_AT} random orthogonal matrices there.",
            ORTHOGONAL,
            collapsed=True,
        ),
        _claim("etf-worse-than-identity", f"{_BELOW} identity matrices there.", IDENTITY, collapsed=False),
        _claim(
            "etf-worse-than-orthogonal",
            f"{_BELOW} random orthogonal matrices there.",
            ORTHOGONAL,
            collapsed=False,
        ),
    ),
    is_whole=True,
)
