"""Every metric at every weight layer of a model, in two passes over the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from collapselab.data import Split
from collapselab.metrics import MetricInputs, NearestCentreCounts, evaluate, select
from collapselab.metrics.decision import nearest_centre_rule
from collapselab.metrics.spectrum import MAX_PER_CLASS_ENTRIES
from collapselab.probes.capture import capture_inputs, evaluating, weight_layers
from collapselab.statistics import ClassStats, Weighting

# Layers up to this width get float64 products: collapsed layers have spectra too wide for float32, and at
# such widths the difference in time does not show.
_EXACT_DIM = 1024


@dataclass(frozen=True)
class LayerMeasurement:
    """One layer on one split.

    Attributes:
        layer: name of the weight layer; the features are what it reads.
        depth: 0 for the first weight layer, largest for the classifier.
        split: `train` or `test`.
        metrics: each metric by name; None where undefined.
        spectra: eigenvalues and singular values by name, largest first; empty unless asked for.
        stats: the class statistics the metrics come from.
        warnings: everything unusual.
    """

    layer: str
    depth: int
    split: str
    metrics: dict[str, float | None]
    spectra: dict[str, list[float]]
    stats: ClassStats
    warnings: tuple[str, ...]


def measure_layers(
    model: nn.Module,
    train: Split,
    test: Split,
    *,
    num_classes: int,
    weighting: Weighting = "balanced",
    spectra: bool = False,
    batch_size: int = 1024,
) -> list[LayerMeasurement]:
    """Measure what every linear layer of `model` reads, on train and on test data.

    The first pass reduces the features of all layers to class statistics, the second finds nearest class
    centres with the train class means frozen. Weak test variance is left to the end of a run: one k-means fit
    costs as much as a hundred training steps. The model is left as it was.

    Args:
        model: any module whose linear layers each run once per forward pass.
        train, test: the splits, on the model's device.
        num_classes: C; labels are 0 … C-1.
        weighting: of the covariances.
        spectra: also keep eigenvalues and singular values.
        batch_size: samples per forward pass.

    Returns:
        One measurement per layer and split, layers in order of depth, train before test.
    """
    layers = weight_layers(model)
    splits = {"train": train, "test": test}
    stats: dict[tuple[str, str], ClassStats] = {}
    decisions: dict[str, Tensor] = {}
    with evaluating(model):
        for split, data in splits.items():
            decisions[split] = _first_pass(model, layers, split, data, num_classes, batch_size, stats)
        means = {name: stats["train", name].class_means for name in layers}
        nearest = {
            split: _second_pass(model, layers, data, decisions[split], means, batch_size)
            for split, data in splits.items()
        }

    measured: list[LayerMeasurement] = []
    last = list(layers)[-1]
    for depth, (name, module) in enumerate(layers.items()):
        for split in splits:
            inputs = MetricInputs(
                stats[split, name],
                weighting=weighting,
                weight=module.weight.detach(),
                is_classifier=name == last,
                nearest_centre=nearest[split][name],
            )
            metrics = [metric for metric in select(None, split) if "k-means" not in metric.needs]
            measured.append(
                LayerMeasurement(
                    layer=name,
                    depth=depth,
                    split=split,
                    metrics=evaluate(metrics, inputs),
                    spectra=inputs.spectra() if spectra else {},
                    stats=inputs.stats,
                    warnings=tuple(inputs.warnings),
                )
            )
    return measured


def _first_pass(
    model: nn.Module,
    layers: dict[str, nn.Linear],
    split: str,
    data: Split,
    num_classes: int,
    batch_size: int,
    stats: dict[tuple[str, str], ClassStats],
) -> Tensor:
    """Fill `stats` for this split; the network's decisions for its samples."""
    counts = torch.bincount(data.labels, minlength=num_classes)
    decisions = []
    for inputs, labels in _batches(data, batch_size):

        def receive(name: str, features: Tensor, labels: Tensor = labels) -> None:
            if (split, name) not in stats:
                dim = features.shape[1]
                scatter = "per_class" if num_classes * dim**2 <= MAX_PER_CLASS_ENTRIES else "full"
                stats[split, name] = ClassStats(
                    num_classes,
                    dim,
                    scatter,
                    class_counts=counts,
                    product_dtype=torch.float64 if dim <= _EXACT_DIM else None,
                )
            stats[split, name].update(features, labels)

        with capture_inputs(layers, receive):
            decisions.append(model(inputs).argmax(dim=1))
    return torch.cat(decisions)


def _second_pass(
    model: nn.Module,
    layers: dict[str, nn.Linear],
    data: Split,
    decisions: Tensor,
    means: dict[str, Tensor],
    batch_size: int,
) -> dict[str, NearestCentreCounts]:
    rules = {name: nearest_centre_rule(means[name]) for name in layers}
    correct, agreeing = dict.fromkeys(layers, 0), dict.fromkeys(layers, 0)
    start = 0
    for inputs, labels in _batches(data, batch_size):
        decided = decisions[start : start + len(labels)]
        start += len(labels)

        def receive(name: str, features: Tensor, labels: Tensor = labels, decided: Tensor = decided) -> None:
            nearest = rules[name](features)
            correct[name] += int((nearest == labels).sum())
            agreeing[name] += int((nearest == decided).sum())

        with capture_inputs(layers, receive):
            model(inputs)
    return {name: NearestCentreCounts(len(data), correct[name], agreeing[name]) for name in layers}


def _batches(data: Split, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(data.inputs.split(batch_size), data.labels.split(batch_size), strict=True))
