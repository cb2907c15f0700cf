"""One measurement of a network in training: its profile, its loss and accuracy, and features that are needed later."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from torch import nn

from collapselab.data import DataSplits
from collapselab.distributed import copy_buffers_of_first_rank, rank_and_world
from collapselab.probes import Profile, profile
from collapselab.records.recipe import Recipe
from collapselab.records.rows import NetworkNumbers, Values
from collapselab.records.run_folder import RunFolder
from collapselab.training.building import classifier_name, loss_function
from collapselab.training.evaluation import Evaluation, evaluate
from collapselab.training.weak_variance import fit_centres


@dataclass(frozen=True)
class Measurement:
    """A network on both splits, in evaluation mode.

    Attributes:
        profile: of the layers that the recipe measures.
        network: by split, loss and accuracy of the network itself; test features of the last layer where the recipe
            asks for weak test variance.
        spectra: whether the profile has them.
    """

    profile: Profile
    network: dict[str, Evaluation]
    spectra: bool


def measure_network(
    model: nn.Module, data: DataSplits, recipe: Recipe, *, spectra: bool
) -> Measurement | None:
    """Measure a network as a recipe says; several processes share the samples, and all return the same.

    Args:
        model: where the data are.
        data: the recipe's.
        recipe: what is measured.
        spectra: whether this is a step whose spectra are kept, where the recipe keeps any.

    Returns:
        The measurement, or None where a loss is NaN or infinite: there are no features to measure then.
    """
    # Each process has running means of its own: see batch norm in docs/runs.md.
    copy_buffers_of_first_rank(model)
    plan, loss, classifier = recipe.measuring, loss_function(recipe), classifier_name(model)
    kept = classifier if plan.weak_test_variance else None
    evaluate_on = partial(
        evaluate, model, loss=loss, batch_size=plan.batch_size, num_classes=data.num_classes
    )
    network = {"train": evaluate_on(data.train), "test": evaluate_on(data.test, features_of=kept)}
    if not all(math.isfinite(evaluation.loss) for evaluation in network.values()):
        return None
    layers = {"all": None, "last": classifier}[plan.layers] if isinstance(plan.layers, str) else plan.layers
    spectra = spectra and plan.spectra
    shares = (split.batches(plan.batch_size, *rank_and_world()) for split in (data.train, data.test))
    measured = profile(
        model,
        *shares,
        layers=layers,
        reduce="flatten",
        metrics=plan.metrics,
        spectra=spectra,
        epsilon=plan.epsilon,
        stats_device=plan.stats_device,
    )
    return Measurement(measured, network, spectra)


def write_measurement(
    folder: RunFolder, step: int, epoch: float, measurement: Measurement, num_classes: int
) -> None:
    """Write features, statistics and, last, rows: with these on disk the step is complete.

    Weak test variance of this step is computed here, in the one process that writes: it fits k-means.
    """
    features = measurement.network["test"].features
    if features is not None:
        folder.write_features(step, features)
    numbers = {split: _numbers(evaluation, num_classes) for split, evaluation in measurement.network.items()}
    folder.append_profile(step, epoch, measurement.profile, spectra=measurement.spectra, network=numbers)


def _numbers(evaluation: Evaluation, num_classes: int) -> NetworkNumbers:
    metrics: Values = {"loss": evaluation.loss, "accuracy": evaluation.accuracy}
    if evaluation.features is None:
        return NetworkNumbers(metrics)
    centres = fit_centres(evaluation.features, num_classes)
    weak: Values = {"weak_test_variance": centres.variance(evaluation.features)}
    return NetworkNumbers(metrics | weak, centres.warnings)
