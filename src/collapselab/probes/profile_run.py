"""Compute one profile: find the probe points of a network, measure both splits, combine the results."""

# Options are complete here: every key is present.
# pyright: reportTypedDictNotRequiredAccess=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from collapselab.distributed import (
    is_same_over_ranks,
    largest_over_ranks,
    run_together,
    splits_of,
    whole_parameters,
)
from collapselab.errors import InputError
from collapselab.metrics import Metric, select
from collapselab.metrics.registry import MATRICES, Need
from collapselab.passes import MeasuredSplit, PointWeight, SplitPlan, measure_split
from collapselab.passes.estimate import Estimate
from collapselab.probes.batches import Batch, Readable, known_labels
from collapselab.probes.candidates import Classes
from collapselab.probes.channels import parse_channel_axis
from collapselab.probes.following import Follower
from collapselab.probes.label_space import LabelSpace
from collapselab.probes.labels import LabelRules, decide_shift, needs_labels
from collapselab.probes.memory import check_memory
from collapselab.probes.network import Network, NetworkStream
from collapselab.probes.options import ProfileOptions
from collapselab.probes.plan import Hints, Plan, ProbePoint, check_means_fit, choose_scatter, plan_probes
from collapselab.probes.products import LayerCall
from collapselab.probes.reduce import Reduction
from collapselab.probes.results import LayerProfile, Profile, SplitProfile
from collapselab.probes.select import LAST, choose_layers, named_layer, scripted_parts
from collapselab.probes.summaries import first_collapsed, joined_warnings
from collapselab.probes.tensors import UnreadableError, ordinary
from collapselab.probes.tokens import with_padding
from collapselab.probes.weights import check_finite_weights, effective_weight
from collapselab.statistics import Scatter
from collapselab.text import grouped

_EXACT_DIM = 256  # up to this width float64 products take no noticeable time
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
        self._progress = options["progress"] or Estimate()
        # Parameters on the meta device are loaded when they are needed.
        devices = (parameter.device for parameter in model.parameters() if not parameter.is_meta)
        self._device = next(devices, torch.device("cpu"))
        place = options["stats_device"]
        self._stats_device = None if place is None else torch.device(place)
        self._reduction = with_padding(Reduction.parse(options["reduce"]), model, options["token_mask"])
        modules, named = choose_layers(model, options["layers"])
        if options["classifier"] is not None and options["layers"] is None:
            modules |= named_layer(model, options["classifier"])
        self._rules = LabelRules(options["ignore_index"], pass_on=needs_labels(model))
        self._splits = splits_of(model)
        self._loader = self._readable(loader, "train")
        self._known = self._known_labels(loader)
        self._warnings: list[tuple[str, str]] = [
            ("layers", f"{name} is a torch.jit module: its layers run outside Python and are left out")
            for name in scripted_parts(model)
        ]
        follower = Follower(parse_channel_axis(options["channel_axis"]))
        plan, labels = self._plan(model, modules, named, follower)
        self._plan_of_points, self._reduction = plan, plan.reduction
        self._warnings += plan.warnings
        self._labels = self._label_space(labels)
        by_name = {point.name: point for point in plan.points}
        self._network = Network(
            model, modules, by_name, self._reduction, plan.scores, self._stats_device, self._splits
        )
        self._num_planned = (
            len(self._labels) if self._labels.room is None else self._num_outputs or self._labels.room
        )
        self._scatter = self._choose_scatter(plan.points)
        with whole_parameters(model):
            self._weights = {
                point.name: self._weight_of(
                    point, modules[point.module_name], follower.products.calls.get(point.name)
                )
                for point in plan.points
            }
            matrices = {name: point.matrix for name, point in self._weights.items()}
            check_finite_weights({name: weight for name, weight in matrices.items() if weight is not None})

    def profile(self, test_loader: Iterable[Any] | None, name: str) -> Profile:
        """Make the passes and put their results together.

        Args:
            test_loader: batches of the test split.
            name: name of the model.

        Raises:
            InputError: data that cannot be measured.
        """
        self._check_memory(with_test=test_loader is not None)
        stream = self._stream(self._loader, "train", self._labels)
        train = measure_split(stream, self._split_plan("train"), None, self._progress)
        performance = {"train": stream.performance()}
        self._warnings += [("train", text) for text in train.warnings]
        self._check_occurrences(train.counts)
        self._warn_of_outputs(len(train.classes))
        measured = {"train": train}
        if test_loader is not None:
            plan = replace(self._split_plan("test"), weighting=train.weighting, scatter=train.scatter)
            labels = self._labels.extended(self._known_labels(test_loader))
            stream = self._stream(self._readable(test_loader, "test"), "test", labels)
            measured["test"] = measure_split(stream, plan, train.reference, self._progress)
            performance["test"] = stream.performance()
            self._warnings += [("test", text) for text in measured["test"].warnings]
        self._warnings += [("reduce", text) for text in self._reduction.warnings()]
        known = {split: found for split, found in performance.items() if found is not None}
        loss, accuracy = ({split: found[at] for split, found in known.items()} for at in (0, 1))
        return replace(self._result(measured, name), loss=loss, accuracy=accuracy)

    def _check_memory(self, *, with_test: bool) -> None:
        device = self._stats_device or self._device
        device = torch.device("cpu") if device.type == "mps" else device  # no float64 there
        plan, labels, number = self._split_plan("train"), self._labels, self._num_planned
        text = run_together(lambda: check_memory(plan, labels, number, device, with_test=with_test))
        self._warnings += [] if text is None else [("memory", text)]
        self._has_room = text is None
        for point in self._plan_of_points.points:
            check_means_fit(point, len(self._labels))

    def _readable(self, loader: Iterable[Any], split: str) -> Readable:
        is_whole = self._splits is not None
        readable = Readable(
            loader, self._device, self._options["split_batch"], split, is_whole, self._rules.read
        )
        if readable.is_share and self._splits == "layers":
            raise InputError(
                f"{split}: the layers of the model are split over processes, which must read the same batches; give a "
                "loader without DistributedSampler"
            )
        return readable

    def _plan(
        self, model: nn.Module, modules: dict[str, nn.Module], named: set[str], follower: Follower
    ) -> tuple[Plan, Tensor]:
        """Return the plan, the same in every process, and the labels of this process's first batch."""
        batch, second = run_together(lambda: self._planned_batches(model))
        labels = batch.counted_labels
        hints = Hints(
            self._options["batch_axis"],
            self._options["scores"],
            self._options["classifier"],
            self._classes(labels),
            # Processes that gather parameters for each other must run equally often.
            checks_order=self._splits is None,
            only_last=self._options["layers"] == LAST and not named,
        )
        plan = run_together(
            lambda: plan_probes(
                model, modules, named, batch, self._reduction, follower, hints=hints, second=second
            )
        )
        _check_agreement(plan)
        return plan, labels

    def _planned_batches(self, model: nn.Module) -> tuple[Batch, Callable[[], Batch | None]]:
        """Return the batch to plan with, and a function that returns another one, or None."""
        batch, second = self._loader.first(), self._loader.second
        if len(batch.labels) < 2:  # too few to tell samples from other axes
            first, other = batch, second()
            if other is not None and len(other.labels) > 1:
                batch, second = other, lambda: first
        if len(batch.labels) == 0:
            raise InputError("train: the first batches have no samples; leave such batches out of the loader")
        self._rules.shift, said = decide_shift(model, batch, self._options["shift_labels"])
        self._warnings += [] if said is None else [("labels", said)]
        return self._rules.shifted(batch), second

    def _classes(self, first: Tensor) -> Classes:
        """Return what is known of the labels.

        Args:
            first: labels of the first batch.
        """
        declared = self._options["class_counts"]
        if declared is not None:
            labels = sorted(declared) if isinstance(declared, Mapping) else range(len(declared))
        else:
            labels = (first if self._known is None else self._known).unique().tolist()
        number = largest_over_ranks(max(labels, default=-1) + 1)
        return Classes(number, tuple(labels), are_all=declared is not None or self._known is not None)

    def _weight_of(self, point: ProbePoint, module: nn.Module, call: LayerCall | None) -> PointWeight:
        """Return the weight that multiplies the features of a point; a warning says why there is none."""
        try:
            weight, warning = effective_weight(module, call)
            weight = None if weight is None else ordinary(weight)
            kind = "for complex features" if weight is not None and point.is_complex else None
        except UnreadableError as error:
            weight, warning, kind = None, None, str(error)
        if kind is not None:
            weight, warning = (
                None,
                f"the weight is {kind}: alignment and other metrics of the weight are undefined",
            )
        if warning is not None:
            self._warnings.append((point.name, warning))
        return PointWeight(weight)

    def _known_labels(self, loader: Iterable[Any]) -> Tensor | None:
        """Return the labels of all samples as the data set of the loader has them; None where unknown to any process."""
        labels = run_together(lambda: self._own_known_labels(loader))
        return None if largest_over_ranks(int(labels is None)) else labels

    def _own_known_labels(self, loader: Iterable[Any]) -> Tensor | None:
        # A caller's own `split_batch` can take other labels than those of the data set.
        labels = None if self._options["split_batch"] else known_labels(loader)
        ignored = self._options["ignore_index"]
        labels = labels if labels is None or ignored is None else labels[labels != ignored]
        if labels is None or len(labels) == 0 or int(labels.min()) < 0:
            return None
        return labels.cpu()

    def _label_space(self, first: Tensor) -> LabelSpace:
        """Return the labels of the train split, as far as they are known.

        Args:
            first: labels of the first batch.

        Raises:
            InputError: the data sets of the processes have other labels, in every process.
        """
        declared = self._options["class_counts"]
        if declared is not None:
            space = LabelSpace.of_counts(declared)
        elif self._known is not None:
            space = LabelSpace.of_labels(self._known)
        else:
            return LabelSpace.open(first, self._num_outputs)
        if not is_same_over_ranks(repr(space.values.tolist())):
            raise InputError(
                "train: the data sets of the processes have different labels; give every process the same data set"
            )
        return space

    def _stream(self, readable: Readable, split: str, labels: LabelSpace) -> NetworkStream:
        is_shared = readable.is_share or self._splits is None
        keeps = split == "train" and self._has_room and "second pass" in self._split_plan(split).needs
        return NetworkStream(split, self._network, readable, labels, is_shared=is_shared, keeps=keeps)

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
            max_per_class=None if self._options["scatter"] == "per_class" else self._num_planned,
        )

    def _choose_scatter(self, points: tuple[ProbePoint, ...]) -> dict[str, Scatter]:
        """Return which part of each scatter is stored: no more than the metrics need, unless the caller says so."""
        metrics = [
            metric for split in ("train", "test") for metric in _metrics(self._options["metrics"], split)
        ]
        needs = frozenset[Need]().union(*(metric.needs for metric in metrics))
        wanted = self._options["scatter"]
        if wanted == "auto" and not (needs & MATRICES or self._options["spectra"]):
            wanted = "trace"
        # Classes that are counted only later can still be weighted equally if each has a covariance.
        late = self._options["weighting"] == "balanced" and self._labels.counts is None
        return choose_scatter(
            points, self._num_planned, wanted, by_class=late or "class covariances" in needs
        )

    @property
    def _num_outputs(self) -> int | None:
        return None if (scores := self._plan_of_points.scores) is None else scores.num_classes

    def _check_occurrences(self, counts: Tensor) -> None:
        """Refuse labels that each occur once and have no scores, such as numbers of samples.

        Raises:
            InputError: in every process.
        """
        if self._num_outputs is None and int(counts.max()) == 1:
            raise InputError(
                f"train: each of the {len(counts)} labels occurs once, as numbers of samples do, so that nothing varies "
                "within a class; yield (inputs, labels), or give split_batch= to say which entry of a batch is the labels"
            )

    def _warn_of_outputs(self, num_classes: int) -> None:
        outputs = self._num_outputs
        if outputs is not None and outputs > num_classes:
            text = (
                f"{outputs} outputs for {num_classes} classes: self_duality is undefined, and a decision for any other "
                "class counts as disagreement; give scores=False if they are no class scores (an embedding)"
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
            classes=tuple(self._labels.values[train.classes].tolist()),
            reduction=self._plan_of_points.reduction_in_words,
            warnings=tuple(grouped(joined_warnings(self._warnings + places))),
        )

    def _layer(self, point: ProbePoint, measured: dict[str, MeasuredSplit]) -> LayerProfile:
        classes, svd = measured["train"].classes, self._weights[point.name].svd
        values = () if svd is None else svd.values[: max(len(classes), _MIN_SINGULAR_VALUES)].tolist()
        return LayerProfile(
            name=point.name,
            depth=point.depth,
            shape=point.shape,
            dim=point.dim,
            reduction=point.reduction,
            same_features_as="" if point.source == point.name else point.source,
            is_beside=point.is_beside,
            scatter=measured["train"].stored(point.source),
            splits={split: _split_profile(point, found, classes) for split, found in measured.items()},
            weight_singular_values=tuple(values),
        )


def _check_agreement(plan: Plan) -> None:
    """Refuse plans that differ between processes, whose statistics cannot be merged.

    Raises:
        InputError: in every process.
    """
    scores = None if plan.scores is None else (plan.scores.path, plan.scores.axes, plan.scores.rest)
    points = [(p.name, p.source, p.dim, p.axes, p.channel_axis, p.is_classifier) for p in plan.points]
    if not is_same_over_ranks(repr((points, scores))):
        raise InputError(
            "the first batches of the processes give different layers, shapes or class scores; give every process batches "
            "of the same kind and size"
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
