"""Find the probe points of a network and their inputs, from one forward pass.

Letters: n samples of a batch, p features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from collapselab.choices import AutoScatter, Scatter
from collapselab.errors import InputError
from collapselab.metrics.spectrum import MAX_PER_CLASS_ENTRIES
from collapselab.passes import Point
from collapselab.probes.axes import Axes
from collapselab.probes.batches import Batch
from collapselab.probes.candidates import Classes, find_scores, scores_of
from collapselab.probes.classifier import find_classifier
from collapselab.probes.following import Follower
from collapselab.probes.geometry import Geometry
from collapselab.probes.reduce import Reduction
from collapselab.probes.runner import Call, Runner
from collapselab.probes.samples import BatchAxis, study
from collapselab.probes.scores import Scores, ScoresOption
from collapselab.probes.tokens import reduction_warnings, resolved
from collapselab.text import counted, listed

# The rule of scatter="auto". A covariance of 1024 features costs about as much as the layer that reads them, one of
# 4096 sixteen times as much; for the classifier's features it is worth that.
MAX_FULL_DIM, MAX_FULL_DIM_CLASSIFIER = 1024, 4096
MIN_SKETCHED_DIM = 64
# Matrices of all layers together; beyond this, the layers nearest to the input are sketched.
MAX_MATRIX_BYTES = 2**30
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
        channel_axis: axis of channels of `shape`, counted from the last; None where features are flattened.
        reduction: name of the reduction that its features get.
        is_complex: whether it reads complex numbers.
        dtype: of the rows of features.
        is_beside: see `Journey.off_chain`.
    """

    module_name: str
    depth: int
    shape: tuple[int, ...]
    axes: Axes
    channel_axis: int | None
    reduction: str = "flatten"
    is_complex: bool = False
    dtype: torch.dtype = torch.float32
    is_beside: bool = False


@dataclass(frozen=True)
class Plan:
    """The probe points of a network in order of depth.

    Attributes:
        points: what is measured.
        scores: where the network returns its class scores; None if it is not known or there are none.
        warnings: which modules are left out and why, and what could not be found; each with the place it concerns.
        reduction: as given, with the class token of the network.
    """

    points: tuple[ProbePoint, ...]
    scores: Scores | None
    warnings: tuple[tuple[str, str], ...]
    reduction: Reduction

    @property
    def reduction_in_words(self) -> str:
        """The name of the reduction; of `auto`, what it chose for layers whose features have several axes."""
        several = [point.reduction for point in self.points if len(point.shape) > 1]
        if self.reduction.kind != "auto":
            return str(self.reduction)
        if set(several) <= {"flatten"}:
            return "flatten"
        return "auto: " + ", ".join(
            f"{name} at {counted(n, 'layer')}" for name, n in Counter(several).items()
        )


@dataclass(frozen=True)
class Hints:
    """What the caller says of a network, and what is known of its data.

    Attributes:
        batch_axis, scores, classifier: see the options.
        classes: as far as they are known.
        checks_order: see `study`.
        only_last: whether no other layer than the deepest is measured.
    """

    batch_axis: BatchAxis = None
    scores: ScoresOption = None
    classifier: str | None = None
    classes: Classes = field(default_factory=Classes)
    checks_order: bool = True
    only_last: bool = False


@torch.no_grad()
def plan_probes(
    model: nn.Module,
    modules: dict[str, nn.Module],
    named: set[str],
    batch: Batch,
    reduction: Reduction,
    follower: Follower,
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
        follower: follows the first forward pass.
        hints: what is known beforehand.
        second: returns the next batch, if there is one.

    Raises:
        InputError: a named layer never ran or does not read one row per label; no layer is left; the model raised.
    """
    runner = Runner(model, modules, hints.scores, follower)
    geometry = study(runner, batch, second, hints.batch_axis, checks_order=hints.checks_order)
    warnings = _unreadable(modules, named, runner.unreadable)
    warnings += _never_ran(modules, named, runner.calls.keys() | runner.unreadable.keys())
    chosen, no_scores = find_scores(
        geometry, runner.tensors, runner.journey, batch, hints.scores, hints.classes
    )
    axes, unfit = _measurable(runner.calls, geometry, modules, named)
    warnings += unfit + geometry.notes
    if not axes:
        why = "; ".join(warnings) or "none of them ran in the forward pass"
        raise InputError(f"no layer is left to measure: {why}")
    made = {name: call.made for name, call in runner.calls.items()}
    classifier, no_classifier = find_classifier(chosen, made, hints.classifier)
    if reduction.padding is not None:
        reduction.padding.sample_axes = geometry.choice
    reduction = resolved(reduction, follower, model)
    mask = reduction.mask_of(batch.inputs) if batch.labels.ndim == 1 else None
    points = _points(runner.calls, axes, geometry, classifier, reduction, mask)
    if reduction.kind == "auto" and reduction.padding is not None:
        reduction.padding.is_needed = any(point.reduction == "mean" for point in points)
    if runner.journey is not None:
        beside = runner.journey.off_chain([point.name for point in points])
        points = tuple(replace(point, is_beside=point.name in beside) for point in points)
    if hints.only_last:
        points = (replace(points[-1], depth=0, source=points[-1].name),)
    follower.axes.check_used(runner.calls)
    warnings += _of_reduction(points, reduction, mask, follower)
    scores = None if chosen is None else scores_of(chosen, hints.scores)
    of_model = [("model", text) for text in (no_scores, no_classifier) if text is not None]
    return Plan(points, scores, (*(("layers", text) for text in warnings), *of_model), reduction)


def _of_reduction(
    points: tuple[ProbePoint, ...], reduction: Reduction, mask: Tensor | None, follower: Follower
) -> list[str]:
    """Return warnings about layers that are not reduced, or along an axis that is assumed."""
    shapes = {point.name: point.shape for point in points}
    flat = [point.name for point in points if point.channel_axis is None and len(point.shape) > 1]
    several = [
        point.name
        for point in points
        if len(point.shape) > 1 and (reduction.kind != "auto" or point.channel_axis is not None)
    ]
    return reduction_warnings(reduction, shapes, flat, mask) + follower.axes.warnings(several, reduction.kind)


def _unreadable(modules: dict[str, nn.Module], named: set[str], unreadable: dict[str, str]) -> list[str]:
    warnings = []
    for name, kind in unreadable.items():
        if name in named:
            raise InputError(f"layers: {name} cannot be measured: it reads {kind}")
        if name.split("#")[0] in modules:
            warnings.append(f"{name} is left out: it reads {kind}")
    return warnings


def _never_ran(modules: dict[str, nn.Module], named: set[str], ran: set[str]) -> list[str]:
    silent = [name for name in modules if name not in ran]
    for name in silent:
        if name in named:
            raise InputError(f"layers: {name} never ran in the forward pass, so there is nothing to measure")
    if not silent:
        return []
    return [f"{listed(silent)} never ran in the forward pass and are left out"]


def _measurable(
    calls: dict[str, Call], geometry: Geometry, modules: dict[str, nn.Module], named: set[str]
) -> tuple[dict[str, Axes], list[str]]:
    """Return the axes of calls that read one row of features per label, in order, and warnings about the others."""
    fit: dict[str, Axes] = {}
    unfit: dict[str, list[str]] = {}
    for name, call in calls.items():
        if call.module_name not in modules:
            continue
        axes, shape = geometry.of_call(name, call.channel_axis), geometry.full.calls[name].shape
        if isinstance(axes, Axes) and axes.rest(shape):
            fit[name] = axes
            continue
        if call.module_name in named:
            raise InputError(f"layers: {_unlike(name, 'reads', shape, geometry, axes)}")
        unfit.setdefault(axes if isinstance(axes, str) else "no axis of features", []).append(name)
    warnings = []
    for reason, names in unfit.items():
        shape = geometry.full.calls[names[0]].shape
        verb = "reads" if len(names) == 1 else "read, such as the first,"
        warnings.append(f"{_unlike(listed(names, 3), verb, shape, geometry, reason)}; left out")
    return fit, warnings


def _unlike(name: str, verb: str, shape: tuple[int, ...], geometry: Geometry, reason: Axes | str) -> str:
    why = f" ({reason})" if isinstance(reason, str) else ""
    return (
        f"{name} {verb} {shape} for labels of shape {geometry.labels}: not one row of features per label{why}"
    )


def _points(
    calls: dict[str, Call],
    axes: dict[str, Axes],
    geometry: Geometry,
    classifier: str | None,
    reduction: Reduction,
    mask: Tensor | None,
) -> tuple[ProbePoint, ...]:
    """Return the probe points in order of depth: the classifier is the deepest, even if other layers run after it."""
    sources: dict[tuple[Any, ...], str] = {}
    points: list[ProbePoint] = []
    for name, own in axes.items():
        call, shape = calls[name], own.rest(geometry.full.calls[name].shape)
        channels = own.rest_axis(call.channel_axis)
        axis = channels if reduction.reduces(shape, channels, mask) else None
        parts = 2 if call.dtype.is_complex else 1  # measured as real and imaginary parts
        # The same features have the same statistics, if they are arranged and reduced in the same way.
        key = (call.identity, own, axis)
        points.append(
            ProbePoint(
                name=name,
                source=sources.setdefault(key, name),
                dim=parts * (int(torch.Size(shape).numel()) if axis is None else shape[axis]),
                channels_first=channels != -1,
                is_classifier=name == classifier,
                module_name=call.module_name,
                depth=0,
                shape=shape,
                axes=own,
                channel_axis=axis,
                reduction="flatten" if axis is None else str(reduction.at(shape, axis)),
                is_complex=call.dtype.is_complex,
                dtype=_real(call.dtype),
            )
        )
    points.sort(key=lambda point: point.is_classifier)  # stable: all others stay in order
    return tuple(replace(point, depth=depth) for depth, point in enumerate(points))


def _real(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of rows of features: that of their parts if they are complex, float32 for whole numbers."""
    if dtype.is_complex:
        return dtype.to_real()
    return dtype if dtype.is_floating_point else torch.float32


def choose_scatter(
    points: tuple[ProbePoint, ...], num_classes: int, wanted: AutoScatter, *, by_class: bool = True
) -> dict[str, Scatter]:
    """Return which part of the within-class scatter is stored, by source of features.

    `auto`: the p x p covariance (`full`) up to p = 1024, for the classifier up to p = 4096; one covariance per class
    (`per_class`) if C p^2 <= 5e7; as long as all matrices together stay below 1 GiB, counted from the classifier
    down. Beyond that, `sketch`. `full`: one covariance per class under the same limits. `sketch`: features up to p = 64
    are stored whole, as that is no larger.

    Args:
        points: where features are measured.
        num_classes: C.
        wanted: the option.
        by_class: whether covariances of single classes are of use; without it they are pooled, unless `wanted` is
            `per_class`.
    """
    out: dict[str, Scatter] = {}
    used = 0
    for point in reversed(points):
        if point.source in out:
            continue
        most = int(MAX_PER_CLASS_ENTRIES) if by_class else 0
        kind = out[point.source] = _scatter_of(point, num_classes, wanted, used, most)
        used += {"per_class": num_classes, "full": 1}.get(kind, 0) * 8 * point.dim**2
    return out


def _scatter_of(
    point: ProbePoint, num_classes: int, wanted: AutoScatter, used: int, most_per_class: int
) -> Scatter:
    """Return the scatter of one source, where matrices of other sources take `used` bytes.

    Args:
        most_per_class: limit of C p^2 for one covariance per class.
    """
    p = point.dim
    per_class = 8 * num_classes * p**2
    fits_per_class = per_class <= 8 * most_per_class and used + per_class <= MAX_MATRIX_BYTES
    if wanted == "auto":
        narrow = p <= (MAX_FULL_DIM_CLASSIFIER if point.is_classifier else MAX_FULL_DIM)
        fits = narrow and used + 8 * p**2 <= MAX_MATRIX_BYTES
        return "sketch" if not fits else "per_class" if fits_per_class else "full"
    kind = "full" if wanted == "sketch" and p <= MIN_SKETCHED_DIM else wanted  # not larger, and exact
    return "per_class" if kind == "full" and fits_per_class else kind


def check_means_fit(point: ProbePoint, num_classes: int) -> None:
    """Check that the means of so many classes fit into memory.

    Raises:
        InputError: they do not, with what to do.
    """
    size = 8 * num_classes * point.dim
    if size > _MAX_MEANS_BYTES:
        raise InputError(
            f"{point.name} reads {point.dim} features: the means of {num_classes} classes would take {size / 2**30:.0f} "
            'GiB; use reduce="gap", or name other layers with layers='
        )
