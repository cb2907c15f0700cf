"""Compute one profile: find the probe points of a network, measure both splits, combine the results."""

# Options are complete here: every key is present.
# pyright: reportTypedDictNotRequiredAccess=false

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from collapselab.distributed import largest_over_ranks, run_together
from collapselab.errors import InputError
from collapselab.metrics import Metric, select
from collapselab.passes import MeasuredSplit, PointWeight, SplitPlan, measure_split
from collapselab.passes.stream import no_progress
from collapselab.probes.batches import Readable, known_labels
from collapselab.probes.labels import LabelRules, decide_shift, needs_labels
from collapselab.probes.network import Network, NetworkStream
from collapselab.probes.options import ProfileOptions
from collapselab.probes.plan import Hints, Plan, ProbePoint, choose_scatter, plan_probes
from collapselab.probes.reduce import Reduction
from collapselab.probes.results import LayerProfile, Profile, SplitProfile, first_collapsed, joined_warnings
from collapselab.probes.select import choose_layers, named_layer
from collapselab.probes.weights import weight_matrix

# Up to this width float64 products take no noticeable time.
_EXACT_DIM = 256
# At least so many, to draw how a weight's spectrum goes on beyond C.
_MIN_SINGULAR_VALUES = 20


class ProfileRun:
    """A profile of a model in evaluation mode.

    Args:
        model: to be measured.
        loader: batches of the train split; the first is read at once, to see what the layers read.
        options: complete and checked.

    Raises:
        InputError: the loader yields nothing; a layer cannot be probed.
    """

    def __init__(self, model: nn.Module, loader: Iterable[Any], options: ProfileOptions) -> None:
        self._options = options
        self._progress = options["progress"] or no_progress
        self._device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self._reduction = Reduction.parse(options["reduce"])
        modules, named = choose_layers(model, options["layers"])
        if options["classifier"] is not None and options["layers"] is None:
            modules |= named_layer(model, options["classifier"])
        self._rules = LabelRules(options["ignore_index"], pass_on=needs_labels(model))
        self._loader = self._readable(loader, "train")
        declared = options["class_counts"]
        self._declared = self._known_counts(loader) if declared is None else torch.as_tensor(declared)
        self._warnings: list[tuple[str, str]] = []
        plan, labels = run_together(lambda: self._plan(model, modules, named))
        self._plan_of_points = plan
        self._warnings += plan.warnings
        self._num_labels = self._label_space(labels)
        by_name = {point.name: point for point in plan.points}
        self._network = Network(model, modules, by_name, self._reduction, plan.scores)
        # Statistics are summed over the whole label space, however few labels occur.
        self._scatter = choose_scatter(plan.points, self._num_labels, options["scatter"])
        self._weights = {
            point.name: PointWeight(_finite_weight(modules[point.module_name], point.name))
            for point in plan.points
        }

    def profile(self, test_loader: Iterable[Any] | None, name: str) -> Profile:
        """Make the passes and put their results together.

        Args:
            test_loader: batches of the test split.
            name: name of the model.

        Raises:
            InputError: data that cannot be measured.
        """
        stream = NetworkStream("train", self._network, self._loader, self._num_labels, self._declared)
        train = measure_split(stream, self._split_plan("train"), None, self._progress)
        self._warnings += [("train", text) for text in train.warnings]
        self._warn_of_outputs(len(train.classes))
        measured = {"train": train}
        if test_loader is not None:
            plan = replace(self._split_plan("test"), weighting=train.weighting)
            stream = self._test_stream(test_loader)
            measured["test"] = measure_split(stream, plan, train.reference, self._progress)
            self._warnings += [("test", text) for text in measured["test"].warnings]
        return self._result(measured, name)

    def _readable(self, loader: Iterable[Any], split: str) -> Readable:
        return Readable(loader, self._device, self._options["split_batch"], split, self._rules.read)

    def _plan(self, model: nn.Module, modules: dict[str, nn.Module], named: set[str]) -> tuple[Plan, Tensor]:
        batch, second = self._loader.first(), self._loader.second
        if len(batch.labels) < 2:  # too few to tell samples from other axes
            first, other = batch, second()
            if other is not None and len(other.labels) > 1:
                batch, second = other, lambda: first
        self._rules.shift, said = decide_shift(model, batch, self._options["shift_labels"])
        self._warnings += [] if said is None else [("labels", said)]
        batch = self._rules.shifted(batch)
        labels = batch.counted_labels
        highest = int(labels.max()) + 1 if len(labels) else 0
        hints = Hints(
            self._options["batch_axis"],
            self._options["scores"],
            self._options["classifier"],
            highest if self._declared is None else len(self._declared),
        )
        plan = plan_probes(model, modules, named, batch, self._reduction, hints=hints, second=second)
        return plan, labels

    def _known_counts(self, loader: Iterable[Any]) -> Tensor | None:
        """Return the samples of each label 0 … K-1 as the data set of the loader has them; None where unknown."""
        # A caller's own `split_batch` can take other labels than those of the data set.
        labels = None if self._options["split_batch"] else known_labels(loader)
        ignored = self._options["ignore_index"]
        labels = labels if labels is None or ignored is None else labels[labels != ignored]
        if labels is None or len(labels) == 0 or int(labels.min()) < 0:
            return None
        return torch.bincount(labels.cpu())

    def _label_space(self, labels: Tensor) -> int:
        """Return K: labels are 0 … K-1.

        Args:
            labels: of the first batch.
        """
        if self._declared is not None:
            return len(self._declared)
        highest = int(labels.max()) + 1 if len(labels) else 1
        return largest_over_ranks(max(highest, self._num_outputs or 0))

    def _test_stream(self, loader: Iterable[Any]) -> NetworkStream:
        declared = self._known_counts(loader)
        if declared is not None:
            missing = self._num_labels - len(declared)
            # A label outside the label space is reported by the pass, with its batch.
            declared = nn.functional.pad(declared, (0, missing)) if missing >= 0 else None
        readable = self._readable(loader, "test")
        return NetworkStream("test", self._network, readable, self._num_labels, declared)

    def _split_plan(self, split: str) -> SplitPlan:
        return SplitPlan(
            points=self._plan_of_points.points,
            weights=self._weights,
            metrics=_metrics(self._options["metrics"], split),
            scatter=self._scatter,
            weighting=self._options["weighting"],
            spectra=self._options["spectra"],
            exact_dim=_EXACT_DIM,
            sketch_size=self._options["sketch_size"],
            seed=self._options["seed"],
        )

    @property
    def _num_outputs(self) -> int | None:
        scores = self._plan_of_points.scores
        return None if scores is None else scores.num_classes

    def _warn_of_outputs(self, num_classes: int) -> None:
        outputs = self._num_outputs
        if outputs is not None and outputs > num_classes:
            text = (
                f"{outputs} outputs for {num_classes} classes: self_duality is undefined, and a decision for any other "
                "class counts as disagreement"
            )
            self._warnings.append(("model", text))

    # ---------------------------------------------------------------- results

    def _result(self, measured: dict[str, MeasuredSplit], name: str) -> Profile:
        train, points = measured["train"], self._plan_of_points.points
        layers = tuple(self._layer(point, measured) for point in points)
        places = [
            (f"{split} {layer.name}", text)
            for split in measured
            for layer in layers
            for text in layer.splits[split].warnings
        ]
        shares = [layer.train.get("normalized_within") for layer in layers]
        epsilon = self._options["epsilon"]
        return Profile(
            model=name,
            layers=layers,
            first_collapsed_layer=first_collapsed([layer.name for layer in layers], shares, epsilon),
            weighting=train.weighting,
            epsilon=epsilon,
            num_samples={split: int(found.counts.sum()) for split, found in measured.items()},
            classes=tuple(train.classes.tolist()),
            reduction=str(self._reduction),
            warnings=tuple(joined_warnings(self._warnings + places)),
        )

    def _layer(self, point: ProbePoint, measured: dict[str, MeasuredSplit]) -> LayerProfile:
        classes, svd = measured["train"].classes, self._weights[point.name].svd
        values = () if svd is None else svd.values[: max(len(classes), _MIN_SINGULAR_VALUES)].tolist()
        return LayerProfile(
            name=point.name,
            depth=point.depth,
            shape=point.shape,
            dim=point.dim,
            scatter=self._scatter[point.source],
            splits={split: _split_profile(point, found, classes) for split, found in measured.items()},
            weight_singular_values=tuple(values),
        )


def _metrics(names: Iterable[str] | None, split: str) -> tuple[Metric, ...]:
    return tuple(metric for metric in select(names, split) if "k-means" not in metric.needs)


def _split_profile(point: ProbePoint, found: MeasuredSplit, train_classes: Tensor) -> SplitProfile:
    """Return the results at one point, class by class in the order of the train split's classes."""
    stats = found.stats[point.source]
    rows = torch.searchsorted(train_classes, found.classes)

    def spread(values: Tensor, missing: int | float) -> Tensor:
        out = torch.full((len(train_classes), *values.shape[1:]), missing, dtype=values.dtype)
        out[rows] = values.cpu()
        return out

    return SplitProfile(
        metrics=found.metrics[point.name],
        counts=spread(stats.counts, 0),
        class_means=spread(stats.class_means, float("nan")),
        class_variances=spread(stats.class_variances, float("nan")),
        spectra=found.spectra.get(point.name, {}),
        warnings=found.point_warnings[point.name],
    )


def _finite_weight(module: nn.Module, name: str) -> Tensor | None:
    weight = weight_matrix(module)
    if weight is not None and not bool(torch.isfinite(weight.sum())):
        count = int((~torch.isfinite(weight)).sum())
        if count:
            raise InputError(f"the weight of {name} has {count} NaN or infinite values; give a trained model")
    return weight
