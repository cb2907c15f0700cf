"""What one forward pass shows of a network: where its probe points are, what they read, what to keep of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from collapselab.choices import AutoScatter, Scatter
from collapselab.errors import InputError
from collapselab.metrics.spectrum import MAX_PER_CLASS_ENTRIES
from collapselab.probes.batches import Batch, logits_of
from collapselab.probes.capture import Taps
from collapselab.probes.reduce import Reduction
from collapselab.probes.select import is_weight_layer
from collapselab.probes.weights import reads_channels_first

# The rule of scatter="auto". A covariance of 1024 features costs about as much as the layer that reads them, one of
# 4096 sixteen times that; of the classifier's features everything is wanted.
MAX_FULL_DIM, MAX_FULL_DIM_CLASSIFIER = 1024, 4096
MIN_SKETCHED_DIM = 64
# Matrices of all layers together; beyond, the layers nearest to the input are sketched.
MAX_MATRIX_BYTES = 2**30
# Class means of a layer, several times over, beyond which it is refused rather than tried.
_MAX_MEANS_BYTES = 2**32


@dataclass(frozen=True)
class ProbePoint:
    """One call of one module in a forward pass.

    Attributes:
        name: of the module; of its second call in one pass `name#2`.
        module_name: of the module.
        depth: 0 for the first that the forward pass reaches, largest for the classifier.
        shape: of what it reads, without the batch.
        dim: p, features per sample after the reduction.
        channels_first: whether channels are the first axis of `shape` or the last.
        reduced: whether the reduction left channels only.
        source: the earlier point that reads the very same tensor, whose statistics serve both; its own name if none.
        is_classifier: whether it returns the network's class scores.
    """

    name: str
    module_name: str
    depth: int
    shape: tuple[int, ...]
    dim: int
    channels_first: bool
    reduced: bool
    source: str
    is_classifier: bool

    @property
    def num_channels(self) -> int:
        return self.shape[0] if self.channels_first else self.shape[-1]

    @property
    def positions(self) -> int:
        """Places at which the module reads channels, per sample."""
        return self.dim // self.num_channels


@dataclass(frozen=True)
class Plan:
    """The probe points of a network in order of depth.

    Attributes:
        points: what is measured.
        num_outputs: length of the network's class scores; None where it has none of the labels' shape.
        warnings: what was left out, and why.
    """

    points: tuple[ProbePoint, ...]
    num_outputs: int | None
    warnings: tuple[str, ...]


class Identity:
    """Equal for two tensors that hold the same values because they are the same memory, unchanged in between.

    Does not keep the memory, and yet no later tensor that is given the same address equals it.
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
class _Seen:
    module_name: str
    features_shape: tuple[int, ...]
    identity: Identity
    channels_first: bool
    output: StorageWeakRef | None = None
    output_shape: tuple[int, ...] = ()


@torch.no_grad()
def plan_probes(
    model: nn.Module,
    modules: dict[str, nn.Module],
    named: set[str],
    batch: Batch,
    reduction: Reduction,
) -> Plan:
    """Run one batch and note which modules read what, in which order.

    Args:
        model: in evaluation mode.
        modules: to probe, by name.
        named: those asked for by their own name, which must run; others that cannot be probed are left out with
            a warning.
        batch: any.
        reduction: of features with more than one axis.

    Raises:
        InputError: a named layer never ran, or does not read one row per label; no layer is left.
    """
    seen: dict[str, _Seen] = {}

    def receive(name: str, module: nn.Module, features: Tensor) -> None:
        shape, first = tuple(features.shape), reads_channels_first(module, features.ndim)
        seen[name] = _Seen(name.split("#")[0], shape, Identity(features), first)

    def returned(name: str, _module: nn.Module, output: Any) -> None:
        if name in seen and isinstance(output, Tensor):
            seen[name].output = StorageWeakRef(output.untyped_storage())
            seen[name].output_shape = tuple(output.shape)

    # The classifier is known among all weight layers, also where it is not to be measured.
    others = {name: part for name, part in model.named_modules() if is_weight_layer(part)}
    with Taps(modules | others, receive, returned) as taps:
        taps.begin()
        logits = logits_of(batch.run(model), batch.labels)
    warnings = _never_ran(modules, named, seen)
    rows = batch.labels.shape
    order = []
    for name, found in seen.items():
        if found.module_name not in modules:
            continue
        in_rows = found.features_shape[: len(rows)] == rows and len(found.features_shape) > len(rows)
        if in_rows or _folds(found.features_shape, rows):
            order.append(name)
            continue
        what = f"{name} reads {found.features_shape} for labels of shape {tuple(rows)}: not one row of features per label"
        if found.module_name in named:
            raise InputError(f"layers: {what}")
        warnings.append(f"{what}; it is left out")
    if not order:
        raise InputError(
            "no layer is left to measure: " + ("; ".join(warnings) or "none of them ran in the forward pass")
        )
    classifier = _classifier(seen, logits)
    first_to_read: dict[tuple[Identity, bool, bool], str] = {}
    sources: dict[str, str] = {}
    for name in order:
        found = seen[name]
        shape = _per_row_shape(found.features_shape, rows)
        reduced = reduction.reduces(shape, channels_first=found.channels_first)
        sources[name] = first_to_read.setdefault(
            (found.identity, reduced, reduced and found.channels_first), name
        )
    if classifier in order:
        order.append(order.pop(order.index(classifier)))  # deepest, whatever runs after it
    points: list[ProbePoint] = []
    for depth, name in enumerate(order):
        found = seen[name]
        shape = _per_row_shape(found.features_shape, rows)
        reduced = reduction.reduces(shape, channels_first=found.channels_first)
        channels = shape[0] if found.channels_first else shape[-1]
        points.append(
            ProbePoint(
                name=name,
                module_name=found.module_name,
                depth=depth,
                shape=shape,
                dim=channels if reduced else int(torch.Size(shape).numel()),
                channels_first=found.channels_first,
                reduced=reduced,
                source=sources[name],
                is_classifier=name == classifier,
            )
        )
    return Plan(tuple(points), None if logits is None else logits.shape[-1], tuple(warnings))


def _never_ran(modules: dict[str, nn.Module], named: set[str], seen: dict[str, _Seen]) -> list[str]:
    silent = [name for name in modules if name not in seen]
    for name in silent:
        if name in named:
            raise InputError(f"layers: {name} never ran in the forward pass, so that it reads nothing")
    if not silent:
        return []
    more = f" and {len(silent) - 4} more" if len(silent) > 4 else ""
    return [f"{', '.join(silent[:4])}{more} never ran in the forward pass and are left out"]


def _folds(shape: tuple[int, ...], rows: torch.Size) -> bool:
    """Whether tokens were folded into the batch: (n * tokens, p) for labels (n, tokens)."""
    return len(rows) > 1 and len(shape) == 2 and shape[0] == rows.numel()


def _per_row_shape(shape: tuple[int, ...], rows: torch.Size) -> tuple[int, ...]:
    return shape[1:] if _folds(shape, rows) else shape[len(rows) :]


def _classifier(seen: dict[str, _Seen], logits: Tensor | None) -> str | None:
    """The layer that returned the class scores; where none did, the last that ran if it returned as many."""
    if logits is None:
        return None
    scores = StorageWeakRef(logits.untyped_storage())
    for name, found in reversed(seen.items()):
        if found.output == scores:
            return name
    name, last = next(reversed(seen.items()))
    # Of a convolution, (n, classes, …) at positions that are averaged later.
    axis = 1 if last.channels_first else -1
    fits = len(last.output_shape) > 1 and last.output_shape[axis] == logits.shape[-1]
    return name if fits else None


def choose_scatter(
    points: tuple[ProbePoint, ...], num_classes: int, wanted: AutoScatter
) -> dict[str, Scatter]:
    """What is kept of the within-class scatter, by source of features.

    `auto`: the p x p covariance (`full`) up to p = 1024, for the classifier up to p = 4096, one per class
    (`per_class`) where C p^2 <= 5e7; as long as all matrices together stay below 1 GiB, counted from the
    classifier down. Beyond, `sketch`. Where `full` is asked for, it is one per class under the same limits;
    where `sketch` is, features up to p = 64 are kept whole.

    Raises:
        InputError: class means alone would not fit, with what to do.
    """
    out: dict[str, Scatter] = {}
    used = 0
    for point in reversed(points):
        p, source = point.dim, point.source
        if source in out:
            continue
        if 8 * num_classes * p > _MAX_MEANS_BYTES:
            raise InputError(
                f"{point.name} reads {p} features: the means of {num_classes} classes would take "
                f"{8 * num_classes * p / 2**30:.0f} GiB; use --reduce gap (reduce='gap') or name other --layers"
            )
        per_class = 8 * num_classes * p**2
        fits_per_class = per_class <= 8 * MAX_PER_CLASS_ENTRIES and used + per_class <= MAX_MATRIX_BYTES
        if wanted == "auto":
            narrow = p <= (MAX_FULL_DIM_CLASSIFIER if point.is_classifier else MAX_FULL_DIM)
            fits = narrow and used + 8 * p**2 <= MAX_MATRIX_BYTES
            kind: Scatter = "sketch" if not fits else "per_class" if fits_per_class else "full"
        else:
            kind = wanted
            if kind == "sketch" and p <= MIN_SKETCHED_DIM:
                kind = "full"  # no larger, and exact
            if kind == "full" and fits_per_class:
                kind = "per_class"
        used += per_class if kind == "per_class" else 8 * p**2 if kind == "full" else 0
        out[source] = kind
    return out
