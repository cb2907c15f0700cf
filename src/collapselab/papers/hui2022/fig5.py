"""Figure 5: checkpoints of more collapsed networks transfer worse.

Networks are trained on two super-classes. Checkpoints during training are fine-tuned to the classes within them, on other
samples, with a sweep of learning rates, and compared with linear probes of the same checkpoints.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from collapselab.experiments.claims.judges import at_end, correlates
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.recipes import At, scales
from collapselab.papers.hui2022 import common, transfer
from collapselab.papers.hui2022.arms import BEFORE_ARMS, in_arms, in_each_arm
from collapselab.papers.hui2022.common import changed
from collapselab.papers.hui2022.transfer_jobs import DIGITS, LEFT_OPEN, MNIST, transfer_jobs
from collapselab.report.builders import Points, by_column
from collapselab.report.chart import Axis

_PER_CHECKPOINT: dict[str, Any] = {
    "per": ("dataset",),
    "runs": "pretrain_step",
    "fitted": None,
    "notes": [
        "The best learning rate is chosen on the test samples, as in the paper; diverged runs are excluded."
    ],
}

EXPERIMENT = Experiment(
    id="hui2022/fig5",
    before=BEFORE_ARMS,
    paper=common.PAPER,
    where="Fig. 5, sec. 4",
    title="Collapsed features transfer worse",
    question="A network is trained on two super-classes and then fine-tuned to the classes within them. Is its accuracy lower "
    "if fine-tuning starts from a more collapsed checkpoint?",
    presets=scales(
        in_arms(transfer_jobs),
        paper=At(
            "Nothing is reduced: MNIST and CIFAR-10, 100,000 steps of pre-training and of each fine-tuning. The paper does not "
            "list its checkpoints or the learning rates between 0.0005 and 0.25; here there are six of each. "
            f"{LEFT_OPEN} CIFAR-10 samples are drawn at random, equally many of each class. {common.STEM_NOTE}"
        ),
        cpu=At(
            "Only MNIST; 20,000 steps of pre-training and 2,000 of fine-tuning instead of 100,000 each; six checkpoints, six "
            f"learning rates. {LEFT_OPEN}",
            make=in_arms(
                partial(
                    transfer_jobs,
                    halves=(MNIST,),
                    checkpoints=(200, 600, 2000, 6000, 12_000, 20_000),
                    tuning=2000,
                )
            ),
        ),
        smoke=At(
            "300 training and 200 test digits of 8 x 8 pixels, layers of 32 units, three checkpoints, two learning rates. "
            + common.SMOKE,
            seeds=1,
            changes={"batch_size": 64},
            make=in_arms(
                partial(
                    transfer_jobs, halves=(DIGITS,), checkpoints=(20, 60, 200), tuning=60, sweep=(0.01, 0.1)
                )
            ),
        ),
    ),
    rows=transfer.transfer_rows,
    charts=[
        Points(
            "fig5",
            "Accuracy after transfer, by collapse of the checkpoint",
            x="train_variance",
            y="accuracy",
            axes=(Axis("train variance of the checkpoint (left: more collapse)", "log"), transfer.DOWNSTREAM),
            select=transfer.transfers,
            split=by_column("pretrain_step", "step {:,}"),
            group="pretrain_step",
            panels=transfer.kinds,
            text="For fine-tuning, the best learning rate is chosen on these same test samples.",
        ),
        *transfer.PAGE_CHARTS,
    ],
    claims=changed(
        *in_each_arm(
            correlates(
                "train_variance",
                "accuracy",
                "Checkpoints with more train collapse have lower accuracy after fine-tuning.",
                id="collapse-transfers-worse",
                only={"kind": "fine_tuning"},
                rows=transfer.best_rates,
                **_PER_CHECKPOINT,
            ),
            at_end(
                "least_accuracy_lost_by_probing",
                "Linear probing has lower accuracy than fine-tuning at every checkpoint.",
                above=(0.0,),
                scale="difference",
                beside="mean_accuracy_lost_by_probing",
                id="probing-is-worse",
                where="Sec. 4.2",
                rows=transfer.less_by_probing,
                only={"kind": "[fl]*"},  # fine-tuning and linear probes
                **_PER_CHECKPOINT,
            ),
        )
    ),
    extras={"linear_probe": transfer.probe_checkpoints},
)
