"""Common parts of the experiments of Xu and Liu (2023): how networks are trained, and the features that they give.

Letters: n samples, p features, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.data.recipe import DataSpec
from collapselab.experiments.grid import Grid, GridRun
from collapselab.metrics.inputs import MetricInputs
from collapselab.probes import weight_layers
from collapselab.records.recipe import Measuring, ModelSpec, Optimizer, Recipe
from collapselab.statistics import ClassStats
from collapselab.training.building import classifier_name
from collapselab.training.evaluation import layer_features

PAPER = "Xu, Liu, Quantifying the Variability Collapse of Neural Networks (2023)"
# Sec. 6.1; the learning rate and the weight decay are missing in the text that this project has.
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 256, 0.1, 5e-4
LEFT_OPEN = "Features are those that the classifier reads on train data, in evaluation mode. There is no warm-up and no augmentation."
_EVALUATION_BATCH = 1024


def recipe(model: ModelSpec, data: DataSpec, seed: int, steps: int) -> Recipe:
    """Return a recipe with the optimisation of sec. 6.1 (SGD with Nesterov momentum, cosine) that keeps its last weights."""
    return Recipe(
        model=model,
        data=data,
        optimizer=Optimizer(learning_rate=LEARNING_RATE, nesterov=True, weight_decay=WEIGHT_DECAY),
        steps=steps,
        batch_size=BATCH_SIZE,
        seed=seed,
        measuring=Measuring(
            count=4,
            layers="last",
            metrics=("normalized_within", "fuzziness", "vci"),
            weak_test_variance=False,
            spectra=False,
        ),
    )


@dataclass(frozen=True)
class LastLayer:
    """What the classifier of a trained network reads on its train set, and the classifier, on the CPU.

    Attributes:
        inputs: what the network reads, flattened.
        features: what its classifier reads.
        labels: 0 … c - 1.
        weight, bias: of the classifier.
    """

    inputs: Float[Tensor, "n q"]
    features: Float[Tensor, "n p"]
    labels: Int[Tensor, " n"]
    weight: Float[Tensor, "c p"]
    bias: Float[Tensor, " c"]


def last_layer_of(run: GridRun, runs: Grid) -> LastLayer:
    """Return the last layer of a finished run, in float32 as the network computes it."""
    model, split = run.model(), runs.samples.of(run.job.recipe).train
    name = classifier_name(model)
    features = layer_features(model, split, name, _EVALUATION_BATCH)
    classifier = weight_layers(model)[name]
    weight, bias = (getattr(classifier, one).detach().cpu() for one in ("weight", "bias"))
    return LastLayer(split.inputs.flatten(1).cpu(), features, split.labels.cpu(), weight, bias)


def class_stats(features: Float[Tensor, "n p"], labels: Int[Tensor, " n"]) -> ClassStats:
    """Return the statistics of features, with balanced covariances and float64 products."""
    counts = labels.bincount()
    stats = ClassStats(len(counts), features.shape[1], class_counts=counts, product_dtype=torch.float64)
    stats.update(features, labels)
    return stats


def metric_inputs(features: Float[Tensor, "n p"], labels: Int[Tensor, " n"]) -> MetricInputs:
    """Return what metrics of these features are computed from."""
    return MetricInputs(class_stats(features, labels))


def class_means(features: Float[Tensor, "n p"], labels: Int[Tensor, " n"]) -> Float[Tensor, "c p"]:
    """Return the mean of each class, in the dtype of the features."""
    one_hot = torch.nn.functional.one_hot(labels).to(features.dtype)
    return (one_hot / one_hot.sum(dim=0)).T @ features


def sample_weights(labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return 1 / (c n_y) of each sample: every class has the same weight, and the sum is 1."""
    counts = labels.bincount()
    return 1 / (len(counts) * counts[labels].double())
