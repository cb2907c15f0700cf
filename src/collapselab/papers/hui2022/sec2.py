"""Sections 2.1 and 4.1: what the definitions of collapse allow, shown on trained and constructed networks.

Four networks are trained: one past zero error, the same with weight decay and batch norm so that it collapses, one for a
single epoch, one on two super-classes. Three are constructed: the one-hot decisions of the first, and two that memorise the
train set.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from collapselab.experiments.claims.judges import at_end, identity
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.recipes import At, balanced, digits, scales
from collapselab.papers.hui2022 import common
from collapselab.papers.hui2022 import measured_constructions as measured
from collapselab.papers.hui2022.common import changed
from collapselab.report.builders import ACCURACIES, SPREAD, VARIANCES, Dots, Quantity
from collapselab.report.chart import NEUTRAL, WEAK, Axis, Look

_ARGUED = "The paper gives an argument here, and no experiment. The networks are MLPs with"
_PROBE_NOTE = f"The penalty of the linear probe is chosen from {common.PENALTIES} values."
_OPEN = (
    "All but one have neither weight decay nor batch norm, which the paper does not mention; one has both, so that it "
    f"collapses. {common.EVALUATION_NOTE} {common.STANDARDIZE_NOTE}"
)
# Their products with the sum of learning rates are that of 5e-4 over 80,000 steps with rate 0.01.
_CPU_DECAY, _SMOKE_DECAY = 5e-3, 0.02

_NAMES = {
    "network": "past zero error",
    "collapsed": "with weight decay",
    "one_hot_decisions": "one-hot decisions",
    "memoriser_weak": "memoriser, one-hot",
    "super_class": "two super-classes",
}
_TWO_POINTS = (
    Quantity("probe_accuracy", "linear probe of two points", Look(WEAK, marker="diamond")),
    Quantity("bound", "bound for two points", Look(NEUTRAL, marker="bar")),
)
_POINTS = (-0.05, -0.02, 0.0)
_CLAIMED: dict[str, Any] = {"per": (), "runs": "construction", "fitted": None, "where": "Sec. 2.1"}

EXPERIMENT = Experiment(
    id="hui2022/sec2",
    paper=common.PAPER,
    where="Definitions 1 to 3, sec. 2.1 and 4.1",
    title="What the definitions of collapse allow",
    question="Is train collapse, or weak test collapse, necessary or sufficient for a network to generalise? What can be "
    "learned from collapsed features?",
    presets=scales(
        measured.construction_jobs,
        paper=At(
            f"{_ARGUED} three layers of 1024 units on MNIST, 80,000 steps or one epoch. {_PROBE_NOTE} {_OPEN}"
        ),
        cpu=At(
            f"{_ARGUED} three layers of 512 units on 5,000 digits of MNIST, 4,000 steps or one epoch. {_PROBE_NOTE} {_OPEN}",
            changes={
                "data.train": balanced(5000),
                "data.test": balanced(1000),
                "model.options.width": 512,
                "steps": 4000,
                "optimizer.learning_rate": 0.02,
            },
            make=partial(measured.construction_jobs, decay=_CPU_DECAY),
        ),
        smoke=At(
            f"{_ARGUED} three layers of 64 units on 1,000 digits of 8 x 8 pixels, 400 steps or one epoch.",
            seeds=1,
            changes={
                "data": digits(1000, 400),
                "model.options.width": 64,
                "steps": 400,
                "optimizer.learning_rate": 0.05,
            },
            make=partial(measured.construction_jobs, decay=_SMOKE_DECAY),
        ),
    ),
    rows=measured.construction_rows,
    charts=[
        Dots(
            "sec2",
            "Variances and accuracies of every network",
            by="construction",
            names=_NAMES,
            panels=((SPREAD, VARIANCES), (Axis("accuracy", percent=True), (*ACCURACIES, *_TWO_POINTS))),
            text="Variances are relative to class means (weak: k-means centres) of the same network. Undefined values are omitted.",
        )
    ],
    claims=changed(
        *(
            identity(id, says, near, below, rows=measured.network(of), **_CLAIMED)
            for id, of, says, near, below in measured.IDENTITIES
        ),
        at_end("train_variance", "A network trained for one epoch does not collapse on its train set.", above=(0.1, 0.03, 0.3),
               id="one-epoch-does-not-collapse", rows=measured.network("one_epoch"), **_CLAIMED),
        at_end("test_accuracy_less_that_of_the_network", "A network trained for one epoch is as accurate on test data as one that interpolates its train set.",
               above=_POINTS, scale="difference", id="one-epoch-matches-interpolation", rows=measured.network("one_epoch"), **_CLAIMED),
        at_end("test_accuracy_less_that_of_the_collapsed_network", "A network trained for one epoch is as accurate on test data as one that has collapsed.",
               beside="train_variance_of_the_collapsed_network", above=_POINTS, scale="difference", id="one-epoch-matches",
               rows=measured.network("one_epoch"), **{**_CLAIMED, "where": "Sec. 2.1; our own addition"}),
    ),
    extras={"constructions": measured.measure_constructions},
    is_whole=True,
)  # fmt: skip
