"""NC3, alignment of the class means with the weight that reads the features; variance inside its row space.

Letters: p features, c classes, k directions. See `collapselab.metrics.registry` for formulas and sources.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from collapselab.decompositions import ThinSVD, expected_random_alignment, principal_angle_cosines
from collapselab.metrics.inputs import MetricInputs, once
from collapselab.numerics import gram_norm, middle_factor


def self_duality(inputs: MetricInputs) -> float | None:
    weight, means = inputs.weight, inputs.centred_means
    if weight is None or not inputs.is_classifier:
        return None
    if weight.shape != means.shape:
        inputs.warn(
            f"self_duality is undefined: the classifier has {weight.shape[0]} outputs for "
            f"{inputs.num_classes} classes"
        )
        return None
    weight = weight.double() * inputs.weight_factor
    size = float(torch.linalg.matrix_norm(weight))
    if size == 0 or inputs.between_trace == 0:
        what = "the weight is zero" if size == 0 else "all class means coincide"
        inputs.warn(f"self_duality is undefined: {what}")
        return None
    return float(torch.linalg.matrix_norm(weight / size - means / torch.linalg.matrix_norm(means)))


def alignment(inputs: MetricInputs) -> float | None:
    """Mean cosine of the k principal angles between the span of the centred class means and the span of the
    top k right-singular vectors of the weight, k = min(C-1, rank M, rank W, p). Where a layer reads channels
    at several positions, both spans lie in the space of its channels.
    """
    weight, k = inputs.weight_svd, _num_angles(inputs)
    if weight is None:
        return None
    if k == 0:
        what = "the weight is zero" if weight.rank == 0 else "all class means coincide"
        inputs.warn(f"alignment is undefined: {what}")
        return None
    means = inputs.channel_means_svd
    return float(principal_angle_cosines(means.leading(k), weight.leading(k)).mean())


def alignment_random(inputs: MetricInputs) -> float | None:
    """Expected `alignment` of two random subspaces of the same dimensions."""
    k = _num_angles(inputs)
    return None if inputs.weight is None or k == 0 else expected_random_alignment(k, inputs.weight.shape[1])


def _num_angles(inputs: MetricInputs) -> int:
    """Return the number of principal angles; 0 where there is no weight or no subspace."""
    weight = inputs.weight_svd
    if inputs.weight is None or weight is None or inputs.between_trace == 0:
        return 0
    return min(inputs.num_classes - 1, inputs.channel_means_svd.rank, weight.rank, inputs.weight.shape[1])


def weight_singular_spread(inputs: MetricInputs) -> float | None:
    """std/mean of the C largest singular values of W, or of all if W has fewer; values below the cut-off are zero."""
    return _spread_of_largest(inputs, inputs.num_classes, "weight_singular_spread")


def weight_top_spread(inputs: MetricInputs) -> float | None:
    """std/mean of the C-1 largest singular values of W, those that are equal at collapse; see `weight_singular_spread`."""
    return _spread_of_largest(inputs, inputs.num_classes - 1, "weight_top_spread")


def _spread_of_largest(inputs: MetricInputs, count: int, name: str) -> float | None:
    if inputs.weight is None or inputs.weight_svd is None:
        return None
    values = inputs.weight_svd.values
    largest = torch.zeros(min(count, *inputs.weight.shape), dtype=torch.float64)
    top = values[: len(largest)].cpu()
    largest[: len(top)] = top
    largest *= middle_factor(largest)
    return inputs.ratio(float(largest.std(correction=0)), float(largest.mean()), name, "the weight is zero")


def weight_stable_rank(inputs: MetricInputs) -> float | None:
    if inputs.weight is None or inputs.weight_svd is None:
        return None
    factor = inputs.weight_factor
    largest = float(inputs.weight_svd.values[0]) * factor if inputs.weight_svd.rank else 0.0
    size = float(torch.linalg.matrix_norm(inputs.weight.double() * factor))
    value = inputs.ratio(size**2, largest**2, "weight_stable_rank", "the weight is zero")
    return None if value is None else max(value, 1.0)  # at rank one the two norms differ by rounding


@once
def within_in_weight_space(inputs: MetricInputs) -> float | None:
    weight = _feature_weight(inputs)
    if weight is None:
        return None
    directions, are_off = _directions_in_or_off(weight)
    if directions.shape[1] == 0:
        return inputs.within_trace if are_off else 0.0
    along = (directions * inputs.within_times(directions)).sum()
    # Either share can be a small difference of large products, as in Proposition 4.1 of Xu and Liu.
    units = inputs.within_variances.sqrt()
    share, shift = torch.stack([along.clamp_min(0.0), gram_norm(units[:, None] * directions)]).tolist()
    rest = max(inputs.within_trace - share, 0.0)
    inputs.check_products("the split of Tr Sigma_W by the weight's row space", shift, min(share, rest))
    return rest if are_off else share


def within_off_weight_space(inputs: MetricInputs) -> float | None:
    inside, weight = within_in_weight_space(inputs), _feature_weight(inputs)
    if inside is None or weight is None:
        return None
    # If the weight reads every direction, nothing is off its row space, and the difference would be rounding.
    return 0.0 if weight.rank == inputs.dim else max(inputs.within_trace - inside, 0.0)


def between_in_weight_space(inputs: MetricInputs) -> float | None:
    weight = _feature_weight(inputs)
    if weight is None:
        return None
    directions, are_off = _directions_in_or_off(weight)
    along = float((inputs.weighted_means @ directions).square().sum())
    return max(float(inputs.weighted_means.square().sum()) - along, 0.0) if are_off else along


def between_off_weight_space(inputs: MetricInputs) -> float | None:
    weight = _feature_weight(inputs)
    if weight is None:
        return None
    means = inputs.weighted_means
    directions, are_off = _directions_in_or_off(weight)
    return float(
        ((means @ directions) if are_off else means - (means @ directions) @ directions.T).square().sum()
    )


def _directions_in_or_off(weight: ThinSVD) -> tuple[Float[Tensor, "p d"], bool]:
    """Return a basis of the row space of a weight, or a smaller one of its complement; and whether it is the latter."""
    if weight.complement is not None and weight.num_dropped < weight.rank:
        return weight.complement(), True
    return weight.right, False


def _feature_weight(inputs: MetricInputs) -> ThinSVD | None:
    """Return the weight's singular vectors as directions in the space of features; None where it reads channels."""
    if inputs.weight is not None and not inputs.weight_reads_features:
        inputs.warn(
            "variance in and off the weight's row space is left out: the weight reads channels at several "
            "positions; reduce the features to channels with reduce='gap'"
        )
        return None
    return inputs.weight_svd
