"""Fig. 1, 4 and 5: variance that the classifier reads, and four metrics of collapse, along training on ImageNet."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from collapselab.experiments.claims import Claim
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.recipes import SMOKE, At, balanced, digits, scales
from collapselab.frames import rows_where
from collapselab.papers.xu2023 import common, curve_jobs, recipes
from collapselab.papers.xu2023.curve_charts import Metrics, TrainAndTest, WeightSpace, of_setting
from collapselab.papers.xu2023.curve_jobs import FEW_CPU_STEPS, FEW_PRODUCT, FEWER, IMAGENET_PRODUCT, MORE
from collapselab.papers.xu2023.curves import (
    higher_on_test,
    is_zero,
    metric_rows,
    rises,
    squared_loss_lower,
    trend,
)

_ONE = "cross-entropy, cosine"
_RESNET = {"only": {"features": MORE, "setting": _ONE}, "where": "Fig. 1, sec. 4.1"}
_WITHIN = "the row space of the classifier's weight"
_RELATIVE = "relative to the between-class variance"
_FOUR = {
    "train_vci": "VCI falls",
    "train_fuzziness": "Fuzziness falls",
    "train_squared_distance": "Squared distance falls",
    "train_cosine_similarity": "Cosine similarity rises",
}


def _of_four(features: str, where: str, id: str) -> Iterator[Claim]:
    """All four metrics show collapse, whatever the loss and the schedule."""
    for column, says in _FOUR.items():
        name = column.removeprefix("train_").replace("_", "-")
        yield trend(
            f"{name}-{id}", column, f"{says} during training if there are {features.split()[0]} features than classes.",
            rising="rises" in says, only={"features": features}, where=where,
        )  # fmt: skip


CLAIMS = (
    trend("variance-in-row-space-falls", "train_within_in_weight_space",
          f"Within-class variance in {_WITHIN} falls during training.", **_RESNET),
    rises("variance-off-row-space-rises", "train_within_off_weight_space",
          f"Within-class variance off {_WITHIN} rises during training.", **_RESNET),
    trend("variance-in-row-space-falls-relative", "train_within_in_weight_space_over_between",
          f"Within-class variance in {_WITHIN} falls during training, {_RELATIVE}.", **_RESNET),
    rises("variance-off-row-space-rises-relative", "train_within_off_weight_space_over_between",
          f"Within-class variance off {_WITHIN} rises during training, {_RELATIVE}.", **_RESNET),
    *_of_four(MORE, "Fig. 4, sec. 6.2", "many-features"),
    *_of_four(FEWER, "Fig. 5, sec. 6.2", "few-features"),
    # Rounding of the projector onto the row space.
    is_zero("no-variance-off-row-space", "train_within_off_weight_space_over_between",
            "If there are fewer features than classes, the classifier reads all variance.", 1e-6,
            only={"features": FEWER}, per=("network",), where="Sec. 6.2"),
    squared_loss_lower("squared-loss-collapses-more", "train_vci_adjusted",
                       "At equal train accuracy, VCI is lower with squared loss than with cross-entropy.",
                       only={"features": MORE}, where="Sec. 6.2"),
    trend("test-vci-falls", "test_vci_adjusted", "VCI falls during training on test data too.", where="Fig. 6, sec. 6.2"),
    higher_on_test("test-vci-above-train", "vci_adjusted",
                     "VCI ends higher on test data than on train data, both adjusted for the number of samples.", where="Fig. 6; our own addition"),
)  # fmt: skip

EXPERIMENT = Experiment(
    id="xu2023/fig1",
    paper=common.PAPER,
    where="Fig. 1, 4, 5 and 6, sec. 4.1 and 6.2",
    title="Variance off the classifier's row space, and metrics of collapse along training: ImageNet",
    question="Does within-class variance remain where the classifier does not read it? Do the four metrics agree if there is less room "
    "for such variance, or none?",
    presets=scales(
        curve_jobs.imagenet_jobs,
        paper=At(
            "Nothing is reduced: ResNet-50, DeiT-T and DeiT-S on ImageNet, 300 epochs. "
            f"{recipes.NUMBERS} DeiT has AutoAugment instead of RandAugment, and no repeated augmentation; its learning rate is 1e-3. "
            "Images are resized to 224 x 224 pixels and margins are cropped; the paper resizes the short side to 256 pixels first.",
            seeds=1,
        ),
        cpu=At(
            "CIFAR-10 instead of ImageNet, cross-entropy only; ResNet-18 of timm with a quarter of the channels. Its last stage has 20, so "
            "that there are two features for each class, as in ResNet-50 on ImageNet; or 4, so that there are 0.4, as in DeiT-S. 2,500 "
            f"training images without augmentation and 2,000 test images; {FEW_CPU_STEPS:,} steps with batches of {recipes.CPU_BATCH} and a "
            "learning rate of "
            f"{recipes.CPU_RATE:g}; the schedule is that of 300 epochs. The weight decay is {recipes.kept_decay(FEW_PRODUCT, FEW_CPU_STEPS):g}, "
            f"so that its product with the sum of learning rates of a cosine is {FEW_PRODUCT:g}; in the paper it is {IMAGENET_PRODUCT:.2g}. "
            f"{recipes.NUMBERS}",
            seeds=5,
            changes={"data.train": balanced(2500), "data.test": balanced(2000)},
            make=curve_jobs.few_features_jobs,
        ),
        smoke=At(
            f"The networks of the scale cpu on 200 training and 200 test digits of 8 x 8 pixels; 30 steps with batches of 32. {SMOKE}",
            seeds=1,
            changes=recipes.SMOKE_CHANGES | {"data": digits(200, 200)},
            make=partial(curve_jobs.few_features_jobs, steps=30),
        ),
    ),
    rows=metric_rows,
    charts=[
        WeightSpace("fig1", "Variance that the classifier reads, and that it does not", f"With {_ONE}, on train data.",
                    lambda rows: rows_where(of_setting(_ONE)(rows), features=MORE)),
        Metrics("fig4", "Four metrics, more features than classes", "On train data. Cosine similarity rises as features collapse; the others fall.",
                select=lambda rows: rows_where(rows, features=MORE)),
        Metrics("fig5", "Four metrics, fewer features than classes", "On train data.", select=lambda rows: rows_where(rows, features=FEWER)),
        TrainAndTest("fig6", "VCI on train and on test data", "Adjusted for the number of samples and of features.", ("vci_adjusted",)),
        TrainAndTest("accuracy", "Accuracy of the network itself", "In evaluation mode, without augmentation.", ("accuracy",)),
    ],
    claims=CLAIMS,
)  # fmt: skip
