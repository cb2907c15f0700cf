"""Figure 6: layers collapse one after another, starting with the last."""

from __future__ import annotations

from collapselab.experiments.claims import judges
from collapselab.experiments.claims.judges import ordered, stays
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.recipes import At, Changes, Job, balanced, digits, job, scales
from collapselab.frames import hidden_layers, rows_where
from collapselab.papers.hui2022 import common
from collapselab.papers.hui2022.arms import BEFORE_ARMS, in_arms, in_each_arm
from collapselab.papers.hui2022.common import images, recipe
from collapselab.records.recipe import Checkpoints
from collapselab.report.builders import VANISHED, VARIANCES, Lines, by_layer, zero_train_error


def _jobs(seed: int, changes: Changes) -> list[Job]:
    data = images("mnist", train=balanced(1000), test=balanced(200))
    metrics = (*common.METRICS, "cdnv", "ncc_agreement", "ncc_accuracy")
    every_layer: Changes = {"measuring.layers": "all", "measuring.metrics": metrics}
    mlp = recipe("mlp", data, seed, options=common.MLP, weak=True, checkpoints=Checkpoints())
    return [job(mlp.with_changes({**every_layer, **changes}))]


_OPEN = (
    "The paper does not specify the batch size; here it is 128, as in sec. 3.2. It does not specify the digits either; here "
    "they are drawn at random for each seed. "
    f"{common.LEFT_OPEN} {common.STANDARDIZE_NOTE}"
)

EXPERIMENT = Experiment(
    id="hui2022/fig6",
    before=BEFORE_ARMS,
    paper=common.PAPER,
    where="Fig. 6, sec. 5.1",
    title="The order in which layers collapse",
    question="Do earlier layers collapse too, and in which order?",
    presets=scales(
        in_arms(_jobs),
        paper=At(f"Nothing is reduced: 1,000 training and 200 test digits, 80,000 steps. {_OPEN}"),
        cpu=At(
            "1,000 training and 200 test digits, as in the paper; 8,000 steps with learning rate 0.01 instead of 80,000 with "
            "0.001, which keeps the sum of learning rates. The weight decay, where there is one, is 0.01 instead of 5e-4, because "
            f"an MLP with batch norm did not collapse with 5e-4 in a pilot run. {_OPEN}",
            seeds=5,
            changes={"steps": 8000, "optimizer.learning_rate": 0.01},
            make=in_arms(_jobs, 0.01),
        ),
        smoke=At(
            "200 training and 200 test digits of 8 x 8 pixels, layers of 32 units, 300 steps with learning rate 0.05. "
            + common.SMOKE,
            seeds=2,
            changes={
                "data": digits(200, 200),
                "model.options.width": 32,
                "steps": 300,
                "measuring.count": 6,
                "optimizer.learning_rate": 0.05,
            },
        ),
    ),
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
    claims=in_each_arm(
        ordered(
            "train_variance",
            "The last hidden layer collapses most, the first hidden layer least.",
            rows=hidden_layers,
        ),
        judges.first("The last hidden layer collapses first."),
        stays(
            "train_variance",
            "The train variance of the first hidden layer stops decreasing at a value above 0 during training.",
            rows=lambda rows: rows_where(rows, depth=1),
        ),
    ),
)
