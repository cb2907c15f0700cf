"""Forms in which covariances are stored for metrics: as rows of few samples, as roots of pseudo-inverses.

Letters: n samples, m rows, p features, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.decompositions import descending_eigenvalues


@dataclass(frozen=True)
class FewRows:
    """Samples that are fewer than features.

    Attributes:
        deviations: from the class means.
        labels: row of the class means for each.
        weights: pi_c / n_c.
    """

    deviations: Float[Tensor, "n p"]
    labels: Int[Tensor, " n"]
    weights: Float[Tensor, " c"]

    @cached_property
    def within(self) -> Float[Tensor, "n p"]:
        """Deviations times the roots of their weights: Sigma_W is `within.T @ within`."""
        return self.deviations * self.weights.sqrt()[self.labels, None]


@dataclass(frozen=True)
class ScaledTotal:
    """Root of the pseudo-inverse of Sigma_T, with every varying feature scaled to unit total variance.

    Attributes:
        scale: 1/sqrt of each varying feature's total variance, length q <= p.
        varying: indices of those features.
        root: R with Sigma_T^+ = R R^T in the scaled features, q x k, k the rank.
        projections: the scaled weighted means times R, c x k, if they are known already: for few samples they are rows of
            orthonormal vectors.
    """

    scale: Float[Tensor, " q"]
    varying: Tensor
    root: Float[Tensor, "q k"]
    projections: Float[Tensor, "c k"] | None = None

    @property
    def rank(self) -> int:
        return self.root.shape[1]


def eigenvalues_by_samples(rows: Float[Tensor, "m p"]) -> Float[Tensor, " p"]:
    """Return the eigenvalues of `rows.T @ rows`, m <= p, largest first: those of `rows @ rows.T`, and zeros."""
    return torch.cat((descending_eigenvalues(rows @ rows.T), rows.new_zeros(rows.shape[1] - len(rows))))
