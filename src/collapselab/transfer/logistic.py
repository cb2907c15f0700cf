"""Multinomial logistic regression for many penalties on the same features, each to a certified objective gap.

The objective is the mean cross-entropy of (H W^T + b) plus (penalty / 2) norm(W)_F^2; the bias is not penalised. Its
minimum does not change when features are shifted (the bias absorbs it) or rotated (the norm is invariant). Features are
therefore centred and rotated to their principal axes once, which leaves at most min(n, p) coordinates, along which
Newton's equations are almost diagonal (`collapselab.transfer.newton`). Solutions of neighbouring penalties are
interpolated (`collapselab.transfer.path`).

Standardised features (each less its mean, divided by its standard deviation over the samples of the fit) make a penalty
mean the same whatever the unit of a feature is. The weight that is returned is that of the features as they were given.

Shapes: n samples, p features, c classes, r coordinates.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.checks import check_finite
from collapselab.errors import InputError
from collapselab.numerics import (
    EPS32,
    EPS64,
    add_gram_,
    full_precision_products,
    middle_factor,
    symmetrized,
)
from collapselab.transfer.newton import Solution
from collapselab.transfer.objective import Problem
from collapselab.transfer.path import Path

# Of the objective.
TOLERANCE = 1e-6
# A feature that varies by fewer roundings of its largest value counts as constant.
_ROUNDINGS = 4
# So does one whose weight could overflow.
_SMALLEST_SPREAD = 1e-290


@dataclass(frozen=True)
class Logistic:
    """A fitted classifier: scores are features @ weight.T + bias.

    Attributes:
        weight, bias: float64, on the CPU, of features in the user's unit. The bias of a class without samples is -inf.
        classes: the user's labels, in the order of the rows of `weight`.
        penalty: of the fit.
        loss: the objective, penalty included.
        gradient: its largest entry, in units of 1 / sqrt(variance + penalty) along principal axes, relative to that at
            zero weights.
        iterations: steps of Newton's method after interpolation.
        gap: bound on (loss - optimum) / optimum, from the gradient in float64.
    """

    weight: Float[Tensor, "c p"]
    bias: Float[Tensor, " c"]
    classes: Int[Tensor, " c"]
    penalty: float
    loss: float
    gradient: float
    iterations: int
    gap: float = math.inf

    def predict(self, features: Any) -> Int[Tensor, " n"]:
        """Return the label of the class with the largest score, the lowest of equal ones.

        Args:
            features: (n, p), a tensor or an array.
        """
        rows = in_float64(torch.as_tensor(features).detach())
        scores = torch.addmm(self.bias.to(rows.device), rows, self.weight.T.to(rows.device))
        return self.classes[scores.argmax(dim=1).cpu()]


class LogisticPath:
    """Fits to the same samples for several penalties; each one starts from the solutions of its neighbours.

    Computed on the device of the features, or on the CPU where that has no float64. Give all penalties to `fits` at once:
    that is several times as fast as one after another.

    Args:
        features: (n, p), any floating-point dtype.
        labels: (n,), 0 … num_classes - 1; a class may be missing.
        num_classes: c.
        standardize: divide each feature by its standard deviation; one that is constant up to rounding is left out.
        start: a classifier that is about the solution for its penalty.

    Raises:
        InputError: features are NaN, there are no samples, labels are out of range, or all are of one class.
    """

    def __init__(
        self,
        features: Float[Tensor, "n p"],
        labels: Int[Tensor, " m"],
        num_classes: int,
        *,
        standardize: bool = False,
        start: Logistic | None = None,
    ) -> None:
        check_finite(features, "linear probe, features")
        _check_labels(len(features), labels, num_classes)
        rows = in_float64(features)
        self._num_classes = num_classes
        self._present, numbers = labels.to(rows.device).unique(return_inverse=True)
        self._mean = rows.mean(dim=0)
        self._units = _units(rows, features.dtype) if standardize else torch.ones_like(self._mean)
        with full_precision_products(rows.device):
            centred = (rows - self._mean).mul_(self._units)
            del rows
            self._axes, coordinates, self._deviations = _principal_axes_(centred)
            del centred
        self._path = Path(Problem(coordinates, self._deviations, numbers, len(self._present)))
        self._slope = self._path.slope()
        if start is not None:
            self._path.start_from(start.penalty, self._inward(start))

    def fit(self, penalty: float, tolerance: float = TOLERANCE) -> Logistic:
        """Return the classifier for one penalty, as `fits` does."""
        return next(self.fits([penalty], tolerance))

    def fits(self, penalties: Iterable[float], tolerance: float = TOLERANCE) -> Iterator[Logistic]:
        """Yield the classifier for each penalty, in the order in which they are found; warn where one is not accurate.

        Args:
            tolerance: largest bound on loss - optimum, relative to the optimum, or to how far this is below the objective
                of zero weights where that is less (at large penalties).

        Raises:
            InputError: a penalty is not above zero: separable samples would have no solution.
        """
        wanted = list(penalties)
        for penalty in wanted:
            if not 0 < penalty < math.inf:
                raise InputError(f"penalty is {penalty}; give a number above 0")
        solutions = self._path.solve(wanted, tolerance)
        while True:
            # The process-wide switches of products stay as they were while the caller has its turn.
            with full_precision_products(self._mean.device):
                found = next(solutions, None)
                if found is None:
                    return
                fits = list(self._outward(found))
            yield from fits

    def _outward(self, found: dict[float, Solution]) -> Iterator[Logistic]:
        """Yield solutions in the user's units; warn of those that are not accurate."""
        inner = torch.stack([one.weights for one in found.values()])
        weights = inner.new_zeros(len(found), self._num_classes, len(self._mean))
        weights[:, self._present] = ((inner[:, :, :-1] / self._deviations) @ self._axes.T) * self._units
        biases = inner.new_full((len(found), self._num_classes), -math.inf)
        biases[:, self._present] = inner[:, :, -1] - inner[:, :, -1].mean(dim=1, keepdim=True)
        biases -= weights @ self._mean
        gradients = self._relative_gradients(found)
        parts = zip(found.items(), weights.cpu(), biases.cpu(), gradients, strict=True)
        for (penalty, one), weight, bias, gradient in parts:
            if not one.converged:
                warnings.warn(
                    f"linear probe, penalty {penalty:g}: stopped after {one.steps} iterations with an objective that may "
                    f"be {one.gap:.1g} of the optimum too large; its accuracy may be off",
                    stacklevel=3,
                )
            classes = torch.arange(self._num_classes)
            yield Logistic(
                weight.clone(), bias.clone(), classes, penalty, one.loss, gradient, one.steps, one.gap
            )

    def _relative_gradients(self, found: dict[float, Solution]) -> list[float]:
        """Return what `Logistic.gradient` is."""
        penalties = self._deviations.new_tensor(list(found))[:, None, None]
        scale = self._deviations / torch.hypot(self._deviations, penalties.sqrt())
        scale = torch.cat([scale, torch.ones_like(penalties)], dim=2)
        gradients = torch.stack([one.gradient for one in found.values()])
        reached, at_zero = ((scale * values).abs().amax(dim=(1, 2)) for values in (gradients, self._slope))
        return (reached / at_zero.clamp_min(math.sqrt(EPS64))).tolist()

    def _inward(self, classifier: Logistic) -> Float[Tensor, "c r1"]:
        """Return a classifier in the units of the solutions."""
        weight, bias = (part.to(self._mean)[self._present] for part in (classifier.weight, classifier.bias))
        units = torch.where(self._units == 0, 0.0, 1 / self._units)
        inner = (weight * units) @ self._axes * self._deviations
        return torch.cat([inner, (bias + weight @ self._mean)[:, None]], dim=1)


def fit_logistic(
    features: Float[Tensor, "n p"],
    labels: Int[Tensor, " m"],
    num_classes: int,
    penalty: float,
    tolerance: float = TOLERANCE,
) -> Logistic:
    """Fit once; for several penalties see `LogisticPath`.

    Raises:
        InputError: as `LogisticPath` and its `fit`.
    """
    return LogisticPath(features, labels, num_classes).fit(penalty, tolerance)


def _units(rows: Float[Tensor, "n p"], dtype: torch.dtype) -> Float[Tensor, " p"]:
    """Return 1 / standard deviation of each feature; 0 for a feature that is constant up to rounding."""
    low, high = torch.aminmax(rows, dim=0)
    spread = high - low
    varies = spread > _SMALLEST_SPREAD
    varies &= spread > _ROUNDINGS * min(torch.finfo(dtype).eps, EPS32) * torch.maximum(low.abs(), high.abs())
    # In units of the spread: squares of very small or large values would be 0 or infinite.
    deviations = ((rows - low) / spread).std(dim=0, correction=0) * spread
    return torch.where(varies, 1 / deviations, 0.0)


def _principal_axes_(
    centred: Float[Tensor, "n p"],
) -> tuple[Float[Tensor, "p r"], Float[Tensor, "n r"], Float[Tensor, " r"]]:
    """Return axes along which samples vary, their coordinates there, and the root mean squares of these; scale `centred`.

    Axes are orthonormal to rounding: with fewer samples than features, the eigenvectors of samples are those of a
    triangular factor. That small eigenvalues are inaccurate does no harm; coordinates are then slightly correlated.
    """
    factor = middle_factor(centred)
    rows, basis = centred.mul_(factor), None
    if len(rows) < rows.shape[1]:
        basis, triangle = torch.linalg.qr(rows.T)
        rows = triangle.T
    gram = rows.new_zeros(rows.shape[1], rows.shape[1])
    add_gram_(gram, rows)
    axes = torch.linalg.eigh(symmetrized(gram))[1].flip(1)
    coordinates = rows @ axes
    deviations = coordinates.square().mean(dim=0).sqrt()
    varies = deviations > max(centred.shape) * EPS64 * deviations.max().clamp_min(
        torch.finfo(torch.float64).tiny
    )
    if basis is not None:
        axes = basis @ axes
    if not varies.all():
        axes, coordinates, deviations = axes[:, varies], coordinates[:, varies], deviations[varies]
    return axes, coordinates.div_(factor), deviations / factor


def in_float64(features: Tensor) -> Tensor:
    """Return features in float64, on the CPU where their device has none."""
    if features.device.type in ("mps", "xla"):
        features = features.cpu()
    return features.to(torch.float64)


def _check_labels(number: int, labels: Int[Tensor, " m"], num_classes: int) -> None:
    if number != len(labels) or not number:
        raise InputError(f"linear probe: {number} features for {len(labels)} labels; give one of each")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise InputError(
            f"linear probe: labels are {int(labels.min())} to {int(labels.max())}; give 0 to {num_classes - 1}"
        )
    if len(labels.unique()) < 2:
        raise InputError("linear probe: all samples are of one class; give samples of at least two")
