"""Fig. 3, 6 and 8: four metrics of collapse along the training of ResNet-18 on CIFAR-10, on train and on test data."""

from __future__ import annotations

from functools import partial

from collapselab.experiments.experiment import Experiment
from collapselab.experiments.recipes import SMOKE, At, balanced, digits, scales
from collapselab.papers.xu2023 import common, curve_jobs, recipes
from collapselab.papers.xu2023.curve_charts import Metrics, TrainAndTest, WeightSpace, of_setting
from collapselab.papers.xu2023.curve_jobs import CIFAR_CPU_STEPS, CIFAR_PRODUCT
from collapselab.papers.xu2023.curves import (
    higher_on_test,
    metric_rows,
    no_common_sign,
    rises,
    squared_loss_lower,
    trend,
)

_ONE = "cross-entropy, cosine"
_ALL = "during training, with cross-entropy and with squared loss, with a cosine and with step decay."
_EITHER = "during training with one loss and schedule, and falls with another."
_WITHIN = "the row space of the classifier's weight"
CLAIMS = (
    trend("vci-falls", "train_vci", f"VCI falls {_ALL}"),
    trend("fuzziness-falls", "train_fuzziness", f"Fuzziness falls {_ALL}"),
    no_common_sign("squared-distance-no-trend", "train_squared_distance", f"Squared distance rises {_EITHER}"),
    no_common_sign("cosine-similarity-no-trend", "train_cosine_similarity", f"Cosine similarity rises {_EITHER}"),
    trend("variance-in-row-space-falls", "train_within_in_weight_space",
          f"Within-class variance in {_WITHIN} falls during training.", only={"setting": _ONE}, where="Sec. 4.1"),
    rises("variance-off-row-space-rises", "train_within_off_weight_space",
          f"Within-class variance off {_WITHIN} rises during training.", only={"setting": _ONE}, where="Sec. 4.1"),
    squared_loss_lower("squared-loss-collapses-more", "train_vci_adjusted",
                       "At equal train accuracy, VCI is lower with squared loss than with cross-entropy.", where="Sec. 6.2"),
    trend("test-vci-falls", "test_vci_adjusted", "VCI falls during training on test data too.", where="Fig. 6, sec. 6.2"),
    higher_on_test("test-vci-above-train", "vci_adjusted",
                     "VCI ends higher on test data than on train data, both adjusted for the number of samples.", where="Fig. 6; our own addition"),
)  # fmt: skip


EXPERIMENT = Experiment(
    id="xu2023/fig3",
    paper=common.PAPER,
    where="Fig. 3, 6 and 8, sec. 6.2",
    title="Metrics of collapse along training: ResNet-18 on CIFAR-10",
    question="Do fuzziness, squared distance, cosine similarity and VCI agree that features collapse during training, whatever the "
    "loss and the schedule? Does VCI fall on test data too?",
    presets=scales(
        curve_jobs.cifar_jobs,
        paper=At(
            f"Nothing is reduced: 50,000 images, 300 epochs. {recipes.NUMBERS} Images are cropped after padding and flipped, without "
            "AutoAugment."
        ),
        cpu=At(
            "ResNet-18 of timm with a quarter of the channels; 2,500 training images without augmentation and 2,000 test images; "
            f"{CIFAR_CPU_STEPS:,} steps with batches of {recipes.CPU_BATCH} and a learning rate of {recipes.CPU_RATE:g}, instead of "
            f"{recipes.CIFAR_STEPS:,} steps with batches of {recipes.CIFAR_BATCH}; the schedule is that of 300 epochs. The weight decay is "
            f"{recipes.kept_decay(CIFAR_PRODUCT, CIFAR_CPU_STEPS):g}, so that its product with the sum of learning rates of a cosine is the "
            f"paper's, {CIFAR_PRODUCT:.2g}. {recipes.NUMBERS}",
            seeds=5,
            changes={"data.train": balanced(2500), "data.test": balanced(2000)},
            make=partial(
                curve_jobs.cifar_jobs,
                model=recipes.narrow_resnet(),
                steps=CIFAR_CPU_STEPS,
                product=CIFAR_PRODUCT,
            ),
        ),
        smoke=At(
            f"The narrow network on 200 training and 200 test digits of 8 x 8 pixels; 30 steps with batches of 32. {SMOKE}",
            seeds=1,
            changes=recipes.SMOKE_CHANGES | {"data": digits(200, 200)},
            make=partial(
                curve_jobs.cifar_jobs, model=recipes.narrow_resnet(20), steps=30, product=1e-3
            ),
        ),
    ),
    rows=metric_rows,
    charts=[
        Metrics("fig3", "Four metrics on train data", "Cosine similarity rises as features collapse; the others fall."),
        TrainAndTest("fig6", "VCI on train and on test data", "Adjusted for the number of samples and of features.", ("vci_adjusted",)),
        TrainAndTest("fig8", "The other metrics on train and on test data", "Squared distance is debiased, because the splits differ in the number of samples.",
                     ("fuzziness", "squared_distance_debiased", "cosine_similarity")),
        WeightSpace("weight-space", "Variance that the classifier reads, and that it does not", f"With {_ONE}.", of_setting(_ONE)),
        TrainAndTest("accuracy", "Accuracy of the network itself", "In evaluation mode, without augmentation.", ("accuracy",)),
    ],
    claims=CLAIMS,
)  # fmt: skip
