"""What class statistics say: counts, means, variances, covariances, from the sums of one pass.

Letters: p features, c classes, k sketch columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.statistics.moments import ClassMoments
from collapselab.statistics.scatter import Scatter, WithinScatter
from collapselab.statistics.weighting import Weighting, class_weights, pooled_factor


class ClassReadings(ABC):
    """The results of `ClassStats`, computed from its sums when they are read.

    Attributes:
        class_counts: samples of each class as declared beforehand; None if they were not.
    """

    class_counts: Int[Tensor, " c"] | None
    _moments: ClassMoments | None
    _within: WithinScatter | None
    _dropped_max_abs: float | None

    @property
    @abstractmethod
    def scatter(self) -> Scatter:
        """Which part of the within-class scatter is stored."""

    @abstractmethod
    def _settle(self) -> None:
        """Add the rows that wait; every reading begins with it."""

    @property
    def has_samples(self) -> bool:
        """Whether any sample was seen."""
        self._settle()
        return self._moments is not None and bool((self._moments.counts > 0).any())

    @property
    def device(self) -> torch.device:
        """Where the sums are stored, and what is read from them."""
        return self._filled_moments().counts.device

    @property
    def counts(self) -> Int[Tensor, " c"]:
        """Number of samples seen of each class, int64."""
        return self._filled_moments().counts.clone()

    @property
    def num_samples(self) -> int:
        """Number of samples seen of all classes."""
        return int(self._filled_moments().counts.sum())

    @property
    def max_abs(self) -> float:
        """Largest absolute feature value seen; not known with `scatter="trace"`."""
        if self._dropped_max_abs is not None:
            return self._dropped_max_abs
        return self._filled_scatter("full", "sketch", "per_class").max_abs

    @property
    def class_means(self) -> Float[Tensor, "c p"]:
        """Mean of each class, float64; NaN where a class has no samples."""
        return self._filled_moments().means()

    @property
    def class_variances(self) -> Float[Tensor, " c"]:
        """v_c = mean squared distance of a class's samples from their mean, float64; NaN without samples."""
        return self._filled_moments().variances()

    @property
    def unit_counts(self) -> Int[Tensor, " c"]:
        """Number of samples of each class with a non-zero norm; only these have a direction."""
        return self._filled_moments().unit_counts()

    @property
    def unit_means(self) -> Float[Tensor, "c p"]:
        """Mean of h / norm(h) over each class's samples of non-zero norm, float64; NaN without any."""
        return self._filled_moments().unit_means()

    def unit_means_of(self, classes: Int[Tensor, " k"]) -> Float[Tensor, "k p"]:
        """`unit_means` of these classes only."""
        return self._filled_moments().unit_means(classes)

    def class_weights(self, weighting: Weighting) -> Float[Tensor, " c"]:
        """Return pi_c: 1/C (`balanced`) or n_c/n (`sample`), float64.

        Raises:
            ValueError: a class has no samples, so its mean does not exist; or unknown weighting.
        """
        return class_weights(self._filled_moments().counts, weighting)

    def global_mean(self, weighting: Weighting = "balanced") -> Float[Tensor, " p"]:
        """Return mu_G = sum_c pi_c mu_c, float64."""
        return self.class_weights(weighting) @ self.class_means

    def within_trace(self, weighting: Weighting = "balanced") -> float:
        """Return Tr Sigma_W, from squares summed in float64."""
        return float(self.class_weights(weighting) @ self.class_variances)

    def between_covariance(self, weighting: Weighting = "balanced") -> Float[Tensor, "p p"]:
        """Return Sigma_B = sum_c pi_c (mu_c - mu_G)(mu_c - mu_G)^T, float64."""
        weights = self.class_weights(weighting)
        centred = self.class_means - self.global_mean(weighting)
        return centred.T @ (weights[:, None] * centred)

    @torch.no_grad()
    def within_covariance(self, weighting: Weighting = "balanced") -> Float[Tensor, "p p"]:
        """Return Sigma_W = sum_c pi_c (1/n_c) sum_{i in c} (h_i - mu_c)(h_i - mu_c)^T, float64.

        Raises:
            ValueError: scatter is `trace` or `sketch`; or the pooled scatter was summed with the other
                weighting and the classes are unbalanced.
        """
        within = self._filled_scatter("full", "per_class")
        if self.scatter == "per_class":
            return within.pooled_about_means(self.class_weights(weighting) / self._filled_moments().counts)
        return within.about_means().mul_(self._pooled_factor(weighting))

    @torch.no_grad()
    def few_rows(self) -> tuple[Float[Tensor, "n p"], Int[Tensor, " n"]] | None:
        """Return the deviations of all samples from their class means, float64, and their labels, if they are few.

        If samples and classes together are no more than features, their rows are kept, and matrices between samples
        replace those between features. A sketch keeps at most 64 rows (2 for each column). None otherwise, after
        `from_state_dict`, and with `scatter="trace"`.
        """
        self._settle()
        return None if self._within is None else self._within.few_rows()

    @torch.no_grad()
    def class_covariances(self) -> Float[Tensor, "c p p"]:
        """Return the covariance of each class about its own mean (over n_c), float64.

        Raises:
            ValueError: scatter is not `per_class`.
        """
        within = self._filled_scatter("per_class")
        return within.about_means().div_(self._filled_moments().counts.double()[:, None, None])

    @torch.no_grad()
    def within_sketch(
        self, weighting: Weighting = "balanced"
    ) -> tuple[Float[Tensor, "p k"], Float[Tensor, "p k"]]:
        """Return (Sigma_W @ Omega, Omega) for the seeded Gaussian Omega, float64.

        Raises:
            ValueError: scatter is not `sketch`; or the classes are unbalanced and the sketch was summed
                with the other weighting.
        """
        within = self._filled_scatter("sketch")
        assert within.omega is not None
        return within.about_means().mul_(self._pooled_factor(weighting)), within.omega.clone()

    def _pooled_factor(self, weighting: Weighting) -> float:
        self.class_weights(weighting)  # refuses classes without samples
        return pooled_factor(self._filled_moments().counts.cpu(), self.class_counts, weighting)

    def _filled_moments(self) -> ClassMoments:
        self._settle()
        if self._moments is None:
            raise ValueError("nothing was measured: this ClassStats has seen no samples")
        return self._moments

    def _filled_scatter(self, *kinds: Scatter) -> WithinScatter:
        self._filled_moments()
        if self._within is None or self.scatter not in kinds:
            wanted = " or ".join(repr(kind) for kind in kinds)
            raise ValueError(f"scatter={self.scatter!r} does not store this; use scatter={wanted}")
        return self._within
