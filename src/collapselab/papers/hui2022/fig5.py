"""Figure 5: checkpoints of more collapsed networks transfer worse.

Networks are trained on two super-classes. Checkpoints during training are fine-tuned to the classes within them, on other
samples, with a sweep of learning rates, and compared with linear probes of the same checkpoints.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from collapselab.experiments.claims.judges import at_end, correlates
from collapselab.experiments.experiment import Experiment
from collapselab.papers.hui2022 import common, transfer
from collapselab.papers.hui2022.arms import BEFORE_ARMS, in_each_arm
from collapselab.papers.hui2022.transfer_jobs import CONTROL
from collapselab.papers.hui2022.transfer_presets import PRESETS
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

_DRAWN: dict[str, Any] = {
    "x": "train_variance",
    "y": "accuracy",
    "axes": (Axis("train variance of the checkpoint (left: more collapse)", "log"), transfer.DOWNSTREAM),
    "references": False,
    "panels": transfer.kinds,
    "share_y": False,  # probes of collapsed features can be near chance
    "text": "For fine-tuning, the best learning rate is chosen on these same test samples.",
}
_COLLAPSE_TRANSFERS_WORSE = correlates(
    "train_variance",
    "accuracy",
    "Checkpoints with more train collapse have lower accuracy after fine-tuning.",
    id="collapse-transfers-worse",
    only={"kind": "fine_tuning"},
    rows=transfer.best_rates,
    **_PER_CHECKPOINT,
)

EXPERIMENT = Experiment(
    id="hui2022/fig5",
    before=BEFORE_ARMS,
    paper=common.PAPER,
    where="Fig. 5, sec. 4",
    title="Collapse of features, and how well they transfer",
    question="A network is trained on two super-classes and then fine-tuned to the classes within them. Is its accuracy lower "
    "if fine-tuning starts from a more collapsed checkpoint?",
    presets=PRESETS,
    rows=transfer.transfer_rows,
    charts=[
        Points(
            "fig5",
            "Accuracy after transfer, by collapse of the checkpoint",
            select=lambda rows: transfer.of_arms(transfer.transfers(rows)),
            split=by_column("checkpoint", "checkpoint {}"),
            group="checkpoint",
            **_DRAWN,
        ),
        Points(
            "fig5-control",
            "Accuracy after transfer, of equally long pre-training with several weight decays",
            select=lambda rows: transfer.of_control(transfer.transfers(rows)),
            split=by_column("weight_decay", "weight decay {:g}"),
            group="weight_decay",
            **_DRAWN,
        ),
        *transfer.PAGE_CHARTS,
    ],
    claims=(
        *in_each_arm(
            _COLLAPSE_TRANSFERS_WORSE,
            at_end(
                "accuracy_lost_by_collapse",
                "Fine-tuning from the most collapsed checkpoint is less accurate than from the first checkpoint.",
                above=(0.0,),
                scale="difference",
                beside="lower_end_of_the_interval_over_test_samples_of_the_accuracy_lost_by_collapse",
                rows=transfer.lost_by_collapse,
                only={"kind": "against_first"},
                **_PER_CHECKPOINT,
            ),
            at_end(
                "least_accuracy_lost_by_probing",
                "Linear probing has lower accuracy than fine-tuning at every checkpoint.",
                above=(0.0,),
                scale="difference",
                beside=(
                    "lower_end_of_the_interval_over_test_samples_of_the_accuracy_lost_by_probing",
                    "mean_accuracy_lost_by_probing",
                ),
                id="probing-is-worse",
                where="Sec. 4.2",
                rows=transfer.less_by_probing,
                only={"kind": "[fl]*"},  # fine-tuning and linear probes
                **_PER_CHECKPOINT,
            ),
        ),
        replace(
            _COLLAPSE_TRANSFERS_WORSE,
            id="collapse-transfers-worse-after-equal-steps",
            statement="After equally many steps of pre-training with different weight decays, checkpoints with more train "
            "collapse have lower accuracy after fine-tuning.",
            only={"kind": "fine_tuning", "arm": CONTROL},
            runs="weight_decay",
        ),
    ),
    extras={"comparisons": transfer.compare_checkpoints},
)
