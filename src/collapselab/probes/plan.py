"""Find the probe points of a network and their inputs, from one forward pass.

Letters: n samples of a batch, p features.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from collapselab.choices import AutoScatter, Scatter
from collapselab.errors import InputError
from collapselab.metrics.spectrum import MAX_PER_CLASS_ENTRIES
from collapselab.passes import Point
from collapselab.probes.axes import Axes, Seen, look
from collapselab.probes.batches import Batch
from collapselab.probes.candidates import Made, find_classifier, find_scores, scores_of
from collapselab.probes.capture import Taps
from collapselab.probes.forward import run_model
from collapselab.probes.geometry import Geometry, Record
from collapselab.probes.inputs import Path
from collapselab.probes.journey import Journey
from collapselab.probes.reduce import Reduction
from collapselab.probes.samples import BatchAxis, study
from collapselab.probes.scores import Scores, ScoresOption, outputs_of
from collapselab.probes.select import all_weight_layers
from collapselab.probes.weights import reads_channels_first

# The rule of scatter="auto". A covariance of 1024 features costs about as much as the layer that reads them, one of
# 4096 sixteen times as much; for the classifier's features it is worth that.
MAX_FULL_DIM, MAX_FULL_DIM_CLASSIFIER = 1024, 4096
MIN_SKETCHED_DIM = 64
# Matrices of all layers together; beyond this, the layers nearest to the input are sketched.
MAX_MATRIX_BYTES = 2**30
_MAX_MESSAGE = 300
# Values of a layer's output that are kept while a network is planned.
_MAX_KEPT_VALUES = 2**20
# Class means of one layer, of which there are several copies; a layer with more is refused at once.
_MAX_MEANS_BYTES = 2**32


@dataclass(frozen=True)
class ProbePoint(Point):
    """One call of one module in a forward pass. Its name is the module's, or `name#2` for the second call.

    Attributes:
        module_name: name of the module.
        depth: 0 for the first point that the forward pass reaches, largest for the classifier.
        shape: shape of what it reads for one label.
        axes: which axes of what it reads belong to the labels.
    """

    module_name: str
    depth: int
    shape: tuple[int, ...]
    axes: Axes


@dataclass(frozen=True)
class Plan:
    """The probe points of a network in order of depth.

    Attributes:
        points: what is measured.
        scores: where the network returns its class scores; None if it is not known or there are none.
        warnings: which modules are left out and why, and what could not be found; each with the place it concerns.
    """

    points: tuple[ProbePoint, ...]
    scores: Scores | None
    warnings: tuple[tuple[str, str], ...]


class Identity:
    """Equal for two tensors that are the same memory with no change in between.

    It does not keep the memory alive, and yet it differs from that of any later tensor at the same address.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._storage = StorageWeakRef(tensor.untyped_storage())
        version = 0 if tensor.is_inference() else tensor._version
        self._view = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), version)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        return self._storage.cdata, self._view


@dataclass
class _Call:
    """What one call of a module read and returned."""

    module_name: str
    identity: Identity
    channels_first: bool
    made: Made = field(default_factory=lambda: Made(0, None))


@dataclass(frozen=True)
class Hints:
    """What the caller says of a network, and what is known of its data.

    Attributes:
        batch_axis, scores, classifier: see the options.
        num_labels: number of classes, as far as it is known.
    """

    batch_axis: BatchAxis = None
    scores: ScoresOption = None
    classifier: str | None = None
    num_labels: int = 0


class _Runner:
    """Runs batches, and keeps everything about the first.

    Attributes:
        calls: of the first forward pass, by name, in order.
        tensors: what it returned.
        journey: where these come from; None if it could not be followed.
    """

    def __init__(self, model: nn.Module, modules: dict[str, nn.Module], hints: Hints) -> None:
        self._model, self._modules = model, modules
        self._given = hints.scores if callable(hints.scores) else None
        self.calls: dict[str, _Call] = {}
        self.tensors: dict[Path, Tensor] = {}
        self.journey: Journey | None = None

    def __call__(self, batch: Batch, lengths: tuple[int, ...]) -> Record:
        if self.calls:
            return self._record_calls(batch, lengths, None, {})[0]
        for journey in (Journey(), None):  # without where the model cannot be followed, or cannot run at all
            calls: dict[str, _Call] = {}
            try:
                record, tensors = self._record_calls(batch, lengths, journey, calls)
            except InputError:
                if journey is None:
                    raise
                continue
            self.calls, self.tensors, self.journey = calls, tensors, journey
            return record
        raise AssertionError

    def _record_calls(
        self, batch: Batch, lengths: tuple[int, ...], journey: Journey | None, calls: dict[str, _Call]
    ) -> tuple[Record, dict[Path, Tensor]]:
        """Run a batch; add its calls to `calls`."""
        seen: dict[str, Seen] = {}
        # The classifier is found among all weight layers, even where it is not to be measured.
        others = all_weight_layers(self._model)

        def receive(name: str, module: nn.Module, features: Tensor) -> None:
            first = reads_channels_first(module, features.ndim)
            calls[name] = _Call(name.split("#")[0], Identity(features), first)
            seen[name] = look(features, lengths)
            if journey is not None and calls[name].module_name in others:
                journey.read(name, features)

        def returned(name: str, _module: nn.Module, output: Any) -> None:
            if name in calls and isinstance(output, Tensor):
                axis = 1 if calls[name].channels_first and output.ndim > 1 else -1
                width = output.shape[axis] if output.ndim else 1
                # Only of the first batch, as long as it costs nothing; later operations may change it in place.
                is_kept = not self.calls and output.ndim == 2 and output.numel() <= _MAX_KEPT_VALUES
                calls[name].made = Made(width, output.clone() if is_kept else None)
                if journey is not None and calls[name].module_name in others:
                    journey.made(name, output)

        with Taps(self._modules | others, receive, returned) as taps, journey or nullcontext():
            tensors = outputs_of(run_model(self._model, batch, taps), self._given)
        return Record(seen, {path: look(tensor, lengths) for path, tensor in tensors.items()}), tensors


@torch.no_grad()
def plan_probes(
    model: nn.Module,
    modules: dict[str, nn.Module],
    named: set[str],
    batch: Batch,
    reduction: Reduction,
    *,
    hints: Hints,
    second: Callable[[], Batch | None] = lambda: None,
) -> Plan:
    """Run the first batch and parts of it, and record which modules read what, in which order.

    Args:
        model: in evaluation mode.
        modules: modules to probe, by name.
        named: names of modules that must be probed; any other that cannot be probed is left out with a warning.
        batch: the first batch.
        reduction: how features with several axes become rows.
        hints: what is known beforehand.
        second: returns the next batch, if there is one.

    Raises:
        InputError: a named layer never ran or does not read one row per label; no layer is left; the model raised.
    """
    runner = _Runner(model, modules, hints)
    geometry = study(runner, batch, second, hints.batch_axis)
    warnings = _never_ran(modules, named, runner.calls)
    chosen, no_scores = find_scores(
        geometry, runner.tensors, runner.journey, batch, hints.scores, hints.num_labels
    )
    axes, unfit = _measurable(runner.calls, geometry, modules, named)
    warnings += unfit + geometry.notes
    if not axes:
        why = "; ".join(warnings) or "none of them ran in the forward pass"
        raise InputError(f"no layer is left to measure: {why}"[:_MAX_MESSAGE])
    made = {name: call.made for name, call in runner.calls.items()}
    classifier, no_classifier = find_classifier(chosen, made, hints.classifier)
    points = _points(runner.calls, axes, geometry, classifier, reduction)
    scores = None if chosen is None else scores_of(chosen, hints.scores)
    of_model = [("model", text) for text in (no_scores, no_classifier) if text is not None]
    return Plan(points, scores, (*(("layers", text) for text in warnings), *of_model))


def _never_ran(modules: dict[str, nn.Module], named: set[str], calls: dict[str, _Call]) -> list[str]:
    silent = [name for name in modules if name not in calls]
    for name in silent:
        if name in named:
            raise InputError(f"layers: {name} never ran in the forward pass, so there is nothing to measure")
    if not silent:
        return []
    more = f" and {len(silent) - 4} more" if len(silent) > 4 else ""
    return [f"{', '.join(silent[:4])}{more} never ran in the forward pass and are left out"]


def _measurable(
    calls: dict[str, _Call], geometry: Geometry, modules: dict[str, nn.Module], named: set[str]
) -> tuple[dict[str, Axes], list[str]]:
    """Return the axes of calls that read one row of features per label, in order, and warnings about the others."""
    fit: dict[str, Axes] = {}
    unfit: dict[str, list[str]] = {}
    for name, call in calls.items():
        if call.module_name not in modules:
            continue
        axes, shape = geometry.of_call(name, call.channels_first), geometry.full.calls[name].shape
        if isinstance(axes, Axes) and axes.rest(shape):
            fit[name] = axes
            continue
        if call.module_name in named:
            raise InputError(f"layers: {_unlike(name, 'reads', shape, geometry, axes)}")
        unfit.setdefault(axes if isinstance(axes, str) else "no axis of features", []).append(name)
    warnings = []
    for reason, names in unfit.items():
        many = f"{', '.join(names[:3])} and {len(names) - 3} more" if len(names) > 3 else ", ".join(names)
        shape = geometry.full.calls[names[0]].shape
        verb = "reads" if len(names) == 1 else "read, such as the first,"
        warnings.append(f"{_unlike(many, verb, shape, geometry, reason)}; left out")
    return fit, warnings


def _unlike(name: str, verb: str, shape: tuple[int, ...], geometry: Geometry, reason: Axes | str) -> str:
    why = f" ({reason})" if isinstance(reason, str) else ""
    return (
        f"{name} {verb} {shape} for labels of shape {geometry.labels}: not one row of features per label{why}"
    )


def _points(
    calls: dict[str, _Call],
    axes: dict[str, Axes],
    geometry: Geometry,
    classifier: str | None,
    reduction: Reduction,
) -> tuple[ProbePoint, ...]:
    """Return the probe points in order of depth: the classifier is the deepest, even if other layers run after it."""
    sources: dict[tuple[Any, ...], str] = {}
    points: list[ProbePoint] = []
    for name, own in axes.items():
        call, shape = calls[name], own.rest(geometry.full.calls[name].shape)
        reduced = reduction.reduces(shape, channels_first=call.channels_first)
        channels = shape[0] if call.channels_first else shape[-1]
        # The same features have the same statistics, if they are arranged and reduced in the same way.
        key = (call.identity, own, reduced, reduced and call.channels_first)
        points.append(
            ProbePoint(
                name=name,
                source=sources.setdefault(key, name),
                dim=channels if reduced else int(torch.Size(shape).numel()),
                channels_first=call.channels_first,
                is_classifier=name == classifier,
                module_name=call.module_name,
                depth=0,
                shape=shape,
                axes=own,
            )
        )
    points.sort(key=lambda point: point.is_classifier)  # stable: all others stay in order
    return tuple(replace(point, depth=depth) for depth, point in enumerate(points))


def choose_scatter(
    points: tuple[ProbePoint, ...], num_classes: int, wanted: AutoScatter
) -> dict[str, Scatter]:
    """Return which part of the within-class scatter is stored, by source of features.

    `auto`: the p x p covariance (`full`) up to p = 1024, for the classifier up to p = 4096; one covariance per class
    (`per_class`) if C p^2 <= 5e7; as long as all matrices together stay below 1 GiB, counted from the classifier
    down. Beyond that, `sketch`. Instead of `full` there is one covariance per class under the same limits; instead of
    `sketch`, features up to p = 64 are stored whole.

    Raises:
        InputError: class means alone would not fit, with what to do.
    """
    out: dict[str, Scatter] = {}
    used = 0
    for point in reversed(points):
        if point.source in out:
            continue
        _check_means_fit(point, num_classes)
        kind = out[point.source] = _scatter_of(point, num_classes, wanted, used)
        used += {"per_class": num_classes, "full": 1}.get(kind, 0) * 8 * point.dim**2
    return out


def _scatter_of(point: ProbePoint, num_classes: int, wanted: AutoScatter, used: int) -> Scatter:
    """Return the scatter of one source, where matrices of other sources take `used` bytes."""
    p = point.dim
    per_class = 8 * num_classes * p**2
    fits_per_class = per_class <= 8 * MAX_PER_CLASS_ENTRIES and used + per_class <= MAX_MATRIX_BYTES
    if wanted == "auto":
        narrow = p <= (MAX_FULL_DIM_CLASSIFIER if point.is_classifier else MAX_FULL_DIM)
        fits = narrow and used + 8 * p**2 <= MAX_MATRIX_BYTES
        return "sketch" if not fits else "per_class" if fits_per_class else "full"
    kind = "full" if wanted == "sketch" and p <= MIN_SKETCHED_DIM else wanted  # not larger, and exact
    return "per_class" if kind == "full" and fits_per_class else kind


def _check_means_fit(point: ProbePoint, num_classes: int) -> None:
    size = 8 * num_classes * point.dim
    if size > _MAX_MEANS_BYTES:
        raise InputError(
            f"{point.name} reads {point.dim} features: the means of {num_classes} classes would take {size / 2**30:.0f} "
            'GiB; use reduce="gap", or name other layers with layers='
        )
