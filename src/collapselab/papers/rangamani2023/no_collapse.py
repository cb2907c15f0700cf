"""Figure 7, appendix B: networks that fit their train set without intermediate collapse, found by a small search."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from collapselab.experiments.claims.judges import at_end
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.recipes import SMOKE, At, Changes, Job, balanced, digits, job, scales
from collapselab.papers.rangamani2023 import common
from collapselab.papers.rangamani2023.common import CONVNET, MLP, images, kept_decay, paper_steps, recipe
from collapselab.papers.rangamani2023.layer_claims import end_of
from collapselab.papers.rangamani2023.layer_rows import layer_rows, measure_recalibrated
from collapselab.papers.rangamani2023.properties import collapse_profile
from collapselab.records.recipe import ModelSpec

_CPU_STEPS = 2000
_DECAY, _RATE = "optimizer.weight_decay", "optimizer.learning_rate"
# The search: every setting is run and drawn, none is left out. The first is that of the other figures.
SETTINGS: Mapping[str, Changes] = {
    "reference": {},
    "no weight decay": {_DECAY: 0.0},
    "no weight decay, rate / 10": {_DECAY: 0.0, _RATE: common.LEARNING_RATE / 10},
    "no weight decay, cross-entropy": {_DECAY: 0.0, "loss": "cross_entropy"},
}


def _search(model: ModelSpec, name: str, seed: int, steps: int, changes: Changes) -> list[Job]:
    one = recipe(model, images(name), seed, steps).with_changes(changes)
    return [job(one.with_changes(own), "{dataset}-" + setting.replace(" ", "-").replace("/", "over").replace(",", ""), model=setting)
            for setting, own in SETTINGS.items()]  # fmt: skip


def _jobs(seed: int, changes: Changes) -> list[Job]:
    return [
        one
        for name in ("cifar10", "fashion_mnist")
        for one in _search(ModelSpec(name=CONVNET), name, seed, paper_steps(name), changes)
    ]


def _cpu(seed: int, changes: Changes) -> list[Job]:
    return _search(
        ModelSpec(name=CONVNET, options={"width": 32, "depth": 10}), "cifar10", seed, _CPU_STEPS, changes
    )


def _smoke(seed: int, changes: Changes) -> list[Job]:
    small = ModelSpec(name=MLP, options={"width": 32, "depth": 3})
    return _search(small, "digits", seed, 100, {"data": digits(300, 200), **changes})


def before_last(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the smallest within-class share of a layer before the last one, at the end."""
    share = end_of(rows)["normalized_within"].iloc[:-1].min(skipna=False)
    return pd.DataFrame([{"smallest_within_class_share_before_the_last_layer": share}])


_OPEN = (
    f"The paper does not say how the two networks that it shows were trained. Here {len(SETTINGS)} settings were tried, and all of "
    "them are shown: the reference, no weight decay, the same with a tenth of the learning rate, the same with cross-entropy. "
    f"{common.LEFT_OPEN}"
)

EXPERIMENT = Experiment(
    id="rangamani2023/no-collapse",
    paper=common.PAPER,
    where="Fig. 7, appendix B",
    title="A search for networks without intermediate collapse",
    question="Are there networks that fit their train set, and whose layers do not collapse before the last one?",
    presets=scales(
        _jobs,
        paper=At(f"Nothing is reduced: the ConvNet on CIFAR-10 and FashionMNIST, 350 epochs. {_OPEN}"),
        cpu=At(
            f"A ConvNet of 10 layers of 32 channels on 2,000 images of CIFAR-10, {_CPU_STEPS:,} steps; 1,500 test images; no FashionMNIST. "
            f"Of the reference: {common.CPU_DECAY_NOTE[0].lower()}{common.CPU_DECAY_NOTE[1:]} {_OPEN}",
            changes={
                "data.train": balanced(2000),
                "data.test": balanced(1500),
                _DECAY: kept_decay(_CPU_STEPS),
            },
            make=_cpu,
        ),
        smoke=At(
            f"An MLP with three layers of 32 units on 300 digits of 8 x 8 pixels, 100 steps. {SMOKE}",
            seeds=1,
            changes={_RATE: 0.05, "measuring.count": 3},
            make=_smoke,
        ),
    ),
    rows=layer_rows,
    extras={"recalibrated": measure_recalibrated},
    charts=[collapse_profile],
    claims=(
        at_end(
            "smallest_within_class_share_before_the_last_layer",
            "There is a setting whose network fits its train set although no layer before the last one is collapsed.",
            above=(common.EPSILON, 0.1, 0.3),
            rows=before_last,
            id="no-intermediate-collapse",
            per=("model", "dataset"),
            anywhere=True,
        ),
    ),
)
