"""Ranks and principal components of the features' covariances.

Letters: p features, c classes. See `collapselab.metrics.registry` for formulas and sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.metrics.eigenvalues import largest_eigenvalues
from collapselab.metrics.inputs import MetricInputs, once
from collapselab.numerics import EPS64, block_elements

# Of the trace, for `components_90`, `_95` and `_99`.
_SHARES = (0.90, 0.95, 0.99)
# Per-class scatter is stored if it has at most this many entries.
MAX_PER_CLASS_ENTRIES = 5e7


def rounding_variance(inputs: MetricInputs) -> float:
    """Return the largest variance that rounding alone can cause in features of this size: p (16 eps64 max abs h)^2."""
    return inputs.dim * (16 * EPS64 * inputs.stats.max_abs) ** 2


def stable_rank(inputs: MetricInputs) -> float | None:
    """Tr Sigma_W over its largest eigenvalue; with a sketch an estimate between `stable_rank_low` and `_high`."""
    if not _has_variance(inputs):
        return None
    if inputs.is_sketched:
        return inputs.sketched_spectrum.stable_rank(inputs.within_trace)
    # The trace comes from squares and the eigenvalue from products: at rank one they differ by rounding.
    return max(inputs.within_trace / inputs.largest_within_eigenvalue, 1.0)


def stable_rank_low(inputs: MetricInputs) -> float | None:
    return _stable_rank_bound(inputs, 0)


def stable_rank_high(inputs: MetricInputs) -> float | None:
    return _stable_rank_bound(inputs, 1)


def _stable_rank_bound(inputs: MetricInputs, which: int) -> float | None:
    if not inputs.is_sketched or not _has_variance(inputs):
        return stable_rank(inputs)
    return inputs.sketched_spectrum.stable_rank_interval(inputs.within_trace)[which]


def _has_variance(inputs: MetricInputs) -> bool:
    if inputs.within_trace <= rounding_variance(inputs):
        inputs.warn("stable_rank is undefined: no variance within classes beyond rounding")
        return False
    return True


def stable_rank_per_class(inputs: MetricInputs) -> float | None:
    ranks = _ranks_by_class(inputs)
    return None if ranks is None else float(ranks[1].mean())


def stable_rank_published(inputs: MetricInputs) -> float | None:
    """As the code published with the paper computes it: the numerator of each class is not divided by its samples."""
    ranks = _ranks_by_class(inputs)
    return None if ranks is None else float((inputs.stats.counts[ranks[0]] * ranks[1]).mean())


@once
def _ranks_by_class(inputs: MetricInputs) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]] | None:
    """Return the classes that have variance beyond rounding, and the stable rank of each."""
    largest, few = inputs.top_class_eigenvalues, inputs.few
    if largest is None and few is not None:
        largest = top_eigenvalues_of_rows(few.deviations, few.labels, torch.zeros_like(inputs.class_means))
    if largest is None and inputs.class_covariances is not None:
        largest = largest_eigenvalues(inputs.class_covariances)
    if largest is None:
        inputs.warn(
            f"stable_rank_per_class is left out: the scatter of {inputs.num_classes} classes in "
            f"{inputs.dim} features is too large to store, and the features are not in memory"
        )
        return None
    varying = (inputs.class_variances > rounding_variance(inputs)).nonzero()[:, 0]
    if not len(varying):
        inputs.warn("stable_rank_per_class is undefined: no variance within any class beyond rounding")
        return None
    return varying, (inputs.class_variances[varying] / largest[varying]).clamp_min(1.0)


def components_90(inputs: MetricInputs) -> int | None:
    return _components(inputs)[0]


def components_95(inputs: MetricInputs) -> int | None:
    return _components(inputs)[1]


def components_99(inputs: MetricInputs) -> int | None:
    return _components(inputs)[2]


@once
def _components(inputs: MetricInputs) -> Sequence[int | None]:
    """Return the number of components for each of the shares."""
    if inputs.total_trace <= rounding_variance(inputs):
        inputs.warn("components_90, _95 and _99 are undefined: the features do not vary")
        return [None] * len(_SHARES)
    values = inputs.total_eigenvalues
    # Rounding must not hide a share that is reached exactly.
    shares = values.new_tensor(_SHARES) - len(values) * EPS64
    reached = values.cumsum(0) >= (shares * values.sum())[:, None]
    numbers = torch.arange(1, len(values) + 1, device=values.device)
    return torch.where(reached, numbers, len(values)).amin(1).tolist()


def top_eigenvalues_of_rows(
    rows: Float[Tensor, "n p"], labels: Int[Tensor, " n"], class_means: Float[Tensor, "c p"]
) -> Float[Tensor, " c"]:
    """Return the largest eigenvalue of each class's own covariance, from the smaller Gram matrix of its rows."""
    order = labels.argsort(stable=True).to(rows.device)
    sizes = torch.bincount(labels, minlength=len(class_means)).cpu()
    largest = torch.zeros(len(class_means), dtype=torch.float64, device=rows.device)
    # Their device does the products; means are small beside them.
    means, starts = class_means.to(rows.device), (sizes.cumsum(0) - sizes).to(rows.device)
    for classes in _alike(sizes.tolist(), rows):
        here, most = torch.tensor(classes, device=rows.device), int(sizes[classes[-1]])
        within = torch.arange(most, device=rows.device)
        filled = within < sizes[classes].to(rows.device)[:, None]
        members = order[(starts[here, None] + within).clamp_max(len(order) - 1)]
        # Rows of zeros, up to the largest of these classes, change no eigenvalue other than zero.
        deviations = (rows[members].double() - means[here, None]) * filled[:, :, None]
        gram = deviations @ deviations.mT if most <= rows.shape[1] else deviations.mT @ deviations
        largest[here] = largest_eigenvalues(gram) / filled.sum(1)
    return largest.to(class_means.device)


def _alike(sizes: list[int], rows: Float[Tensor, "n p"]) -> Iterator[list[int]]:
    """Yield the classes that have rows by their number of rows: each alone on a CPU, as many as fill an accelerator there."""
    limit = 0 if rows.device.type == "cpu" else block_elements(rows.device) // rows.shape[1]
    group: list[int] = []
    for number in sorted((number for number, size in enumerate(sizes) if size), key=sizes.__getitem__):
        if group and (len(group) + 1) * sizes[number] > limit:
            yield group
            group = []
        group.append(number)
    if group:
        yield group
