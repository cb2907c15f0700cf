"""Train, strong-test and weak-test variance of Hui, Belkin and Nakkiran (2022), sec. 3.1.

The numerator is computed at training time t, with references fixed at the end of training T (as the paper defines) or
at t itself. Stored class means and scatters are enough for the first two variances; the third needs k-means centres of
the test features at T (`collapselab.metrics.kmeans`) and a pass over the features at t.

Letters: n samples, p features, c classes, k centres.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collapselab.metrics.decision import nearest_class_centre
from collapselab.metrics.inputs import MetricInputs
from collapselab.numerics import EPS64, block_elements


@dataclass(frozen=True)
class Reference:
    """Points to which the features are expected to collapse at the end of training.

    Attributes:
        centres: class means (train and strong test variance) or k-means centres (weak), float64.
    """

    centres: Float[Tensor, "k p"]

    @property
    def spread(self) -> float:
        """Mean squared distance of the centres from their mean: the denominator. A value below rounding is zero."""
        shifted = self.centres - self.centres[0]
        around = (shifted - shifted.mean(0)).square().sum(1).mean()
        spread, largest = torch.stack([around, self.centres.abs().max()]).tolist()
        rounding = self.centres.shape[1] * (16 * EPS64 * largest) ** 2
        return spread if spread > rounding else 0.0


def labelled_variance(
    counts: Tensor,
    class_means: Float[Tensor, "c p"],
    class_variances: Float[Tensor, " c"],
    reference: Reference,
) -> float | None:
    """E norm(h^t - mu_y)^2 / mean_c norm(mu_c - mu)^2 = sum_c (n_c/n) (v_c + norm(mu_c(t) - mu_c)^2) / spread.

    Statistics of train features give the train variance, those of test features the strong test variance.

    Args:
        counts, class_means, class_variances: statistics of the features at t.
        reference: class means at T.

    Returns:
        The variance, or None where the reference means coincide.
    """
    distance2 = (class_means - reference.centres.to(class_means.device)).square().sum(1)
    variances, counts = class_variances.to(distance2.device), counts.to(distance2.device)
    weighted, spread = counts.double() @ (variances + distance2), reference.spread
    return float(weighted) / int(counts.sum()) / spread if spread > 0 else None


def current_variance(inputs: MetricInputs) -> float | None:
    """`labelled_variance` with the class means of the same features as reference (t = T)."""
    if inputs.between_trace == 0:
        inputs.warn("train_variance and strong_test_variance are undefined: all class means coincide")
        return None
    return labelled_variance(
        inputs.stats.counts, inputs.class_means, inputs.class_variances, Reference(inputs.class_means)
    )


def weak_test_variance(inputs: MetricInputs) -> float | None:
    return inputs.kmeans.get("weak_test_variance")


def weak_test_variance_trimmed(inputs: MetricInputs) -> float | None:
    return inputs.kmeans.get("weak_test_variance_trimmed")


def smallest_cluster(inputs: MetricInputs) -> float | None:
    return inputs.kmeans.get("smallest_cluster")


def squared_distances_to_nearest(features: Float[Tensor, "n p"], reference: Reference) -> Float[Tensor, " n"]:
    """Return min_k norm(h - m_k)^2 of each row, computed from differences to the nearest centre, float64."""
    nearest = nearest_class_centre(features, reference.centres)
    centres = reference.centres.to(features.device)
    out = torch.empty(len(features), dtype=torch.float64, device=features.device)
    step = max(1, block_elements(features.device) // features.shape[1])
    for start in range(0, len(features), step):
        block = slice(start, start + step)
        differences = features[block].double() - centres[nearest[block]]
        out[block] = differences.square().sum(1)
    return out
