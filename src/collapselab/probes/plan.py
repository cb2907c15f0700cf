"""Find the probe points of a network and their inputs, from one forward pass.

Letters: n samples of a batch, p features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from collapselab.choices import AutoScatter, Scatter
from collapselab.errors import InputError
from collapselab.metrics.spectrum import MAX_PER_CLASS_ENTRIES
from collapselab.passes import Point
from collapselab.probes.batches import Batch, logits_of
from collapselab.probes.capture import Taps
from collapselab.probes.following import Follower
from collapselab.probes.forward import run_model
from collapselab.probes.reduce import Reduction
from collapselab.probes.select import is_weight_layer
from collapselab.probes.tokens import class_token, reduction_warnings

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
        shape: shape of what it reads, without the batch.
        channel_axis: axis of channels of what it reads, counted from the last; None where features are flattened.
    """

    module_name: str
    depth: int
    shape: tuple[int, ...]
    channel_axis: int | None


@dataclass(frozen=True)
class Plan:
    """The probe points of a network in order of depth.

    Attributes:
        points: what is measured.
        num_outputs: length of the network's class scores; None if none has the labels' shape.
        warnings: which modules are left out, and why.
        reduction: as given, with the class token of the network.
    """

    points: tuple[ProbePoint, ...]
    num_outputs: int | None
    warnings: tuple[str, ...]
    reduction: Reduction


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
    features_shape: tuple[int, ...]
    identity: Identity
    channel_axis: int
    output: StorageWeakRef | None = None
    output_shape: tuple[int, ...] = ()


@torch.no_grad()
def plan_probes(
    model: nn.Module,
    modules: dict[str, nn.Module],
    named: set[str],
    batch: Batch,
    reduction: Reduction,
    follower: Follower,
) -> Plan:
    """Run one batch and record which modules read what, in which order.

    Args:
        model: in evaluation mode.
        modules: modules to probe, by name.
        named: names of modules that must be probed; any other that cannot be probed is left out with a warning.
        batch: any batch.
        reduction: how features with several axes become rows.
        follower: follows the forward pass.

    Raises:
        InputError: a named layer never ran or does not read one row per label; no layer is left; the model raised.
    """
    calls, logits = _record_calls(model, modules, batch, follower)
    warnings = _never_ran(modules, named, calls)
    order, unfit = _measurable(calls, modules, named, batch.labels.shape)
    warnings += unfit
    if not order:
        raise InputError(
            "no layer is left to measure: " + ("; ".join(warnings) or "none of them ran in the forward pass")
        )
    classifier = _classifier(calls, logits)
    reduction = replace(reduction, class_token=class_token(reduction, follower, model))
    mask = reduction.mask_of(batch.mask, batch.inputs) if batch.labels.ndim == 1 else None
    points = _points(calls, order, classifier, batch.labels.shape, reduction, mask)
    follower.axes.check_used(calls)
    flat = [point.name for point in points if point.channel_axis is None and len(point.shape) > 1]
    warnings += reduction_warnings(reduction, {point.name: point.shape for point in points}, flat, mask)
    warnings += follower.axes.warnings(
        [point.name for point in points if len(point.shape) > 1], reduction.kind
    )
    return Plan(points, None if logits is None else logits.shape[-1], tuple(warnings), reduction)


def _record_calls(
    model: nn.Module, modules: dict[str, nn.Module], batch: Batch, follower: Follower
) -> tuple[dict[str, _Call], Tensor | None]:
    """Return the calls of one forward pass by name, in order, and the class scores."""
    calls: dict[str, _Call] = {}

    def receive(name: str, module: nn.Module, features: Tensor) -> None:
        axis = follower.enter(name, module, features)
        calls[name] = _Call(name.split("#")[0], tuple(features.shape), Identity(features), axis)

    def returned(name: str, _module: nn.Module, output: Any) -> None:
        follower.leave(name, output)
        if name in calls and isinstance(output, Tensor):
            calls[name].output = StorageWeakRef(output.untyped_storage())
            calls[name].output_shape = tuple(output.shape)

    # The classifier is found among all weight layers, even where it is not to be measured.
    others = {name: part for name, part in model.named_modules() if is_weight_layer(part)}
    with Taps(modules | others, receive, returned) as taps:
        try:
            with follower:
                output = run_model(model, batch, taps, may_repeat=True)
        except InputError:  # the model cannot be followed, or cannot run at all
            calls.clear()
            output = run_model(model, batch, taps, may_repeat=True)
    return calls, logits_of(output, batch.labels)


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
    calls: dict[str, _Call], modules: dict[str, nn.Module], named: set[str], rows: torch.Size
) -> tuple[list[str], list[str]]:
    """Return the names of calls that read one row of features per label, in order, and warnings about the others."""
    order, warnings = [], []
    for name, call in calls.items():
        if call.module_name not in modules:
            continue
        shape = call.features_shape
        if _are_folded(shape, rows) or (shape[: len(rows)] == rows and len(shape) > len(rows)):
            order.append(name)
            continue
        text = f"{name} reads {shape} for labels of shape {tuple(rows)}: not one row of features per label"
        if call.module_name in named:
            raise InputError(f"layers: {text}")
        warnings.append(f"{text}; it is left out")
    return order, warnings


def _points(
    calls: dict[str, _Call],
    order: list[str],
    classifier: str | None,
    rows: torch.Size,
    reduction: Reduction,
    mask: Tensor | None,
) -> tuple[ProbePoint, ...]:
    """Return the probe points in order of depth: the classifier is the deepest, even if other layers run after it."""
    sources: dict[tuple[Identity, int | None], str] = {}
    points: list[ProbePoint] = []
    for name in order:
        call = calls[name]
        shape = _per_row_shape(call.features_shape, rows)
        reduced = reduction.reduces(shape, call.channel_axis, mask)
        axis = call.channel_axis if reduced else None
        # The same features have the same statistics, if they are reduced in the same way.
        key = (call.identity, axis)
        points.append(
            ProbePoint(
                name=name,
                source=sources.setdefault(key, name),
                dim=int(torch.Size(shape).numel()) if axis is None else shape[axis],
                channels_first=call.channel_axis != -1,
                is_classifier=name == classifier,
                module_name=call.module_name,
                depth=0,
                shape=shape,
                channel_axis=axis,
            )
        )
    points.sort(key=lambda point: point.is_classifier)  # stable: all others stay in order
    return tuple(replace(point, depth=depth) for depth, point in enumerate(points))


def _are_folded(shape: tuple[int, ...], rows: torch.Size) -> bool:
    """Return whether tokens were folded into the batch: (n * tokens, p) for labels (n, tokens)."""
    return len(rows) > 1 and len(shape) == 2 and shape[0] == rows.numel()


def _per_row_shape(shape: tuple[int, ...], rows: torch.Size) -> tuple[int, ...]:
    return shape[1:] if _are_folded(shape, rows) else shape[len(rows) :]


def _classifier(calls: dict[str, _Call], logits: Tensor | None) -> str | None:
    """Return the layer that returned the class scores, or else the last that ran, if it returned as many values."""
    if logits is None:
        return None
    scores = StorageWeakRef(logits.untyped_storage())
    for name, call in reversed(calls.items()):
        if call.output == scores:
            return name
    name, last = next(reversed(calls.items()))
    # A convolution returns (n, classes, …) at positions that are averaged later.
    axis = 1 if last.channel_axis != -1 else -1
    fits = len(last.output_shape) > 1 and last.output_shape[axis] == logits.shape[-1]
    return name if fits else None


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
