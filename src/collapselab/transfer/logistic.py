"""Multinomial logistic regression to convergence, for many penalties on the same features.

The objective is the mean cross-entropy of (H W^T + b) plus (penalty / 2) norm(W)_F^2; the bias is not penalised. Its
minimum does not change when features are shifted (the bias absorbs it) or rotated (the norm is invariant). Features are
therefore centred and rotated to their principal axes once, which leaves at most min(n, p) coordinates. Along each axis
variables are measured in units of 1 / sqrt(variance + penalty): the curvature is then about the same along all of them,
at every penalty from 1e-6 to 1e6.

Standardised features (each less its mean, divided by its standard deviation over the samples of the fit) make a penalty
mean the same whatever the unit of a feature is. The weight that is returned is that of the features as they were given.

Shapes: n samples, p features, c classes, r coordinates.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from scipy import optimize, special
from torch import Tensor

from collapselab.checks import check_finite
from collapselab.errors import InputError
from collapselab.numerics import EPS32, EPS64

_Matrix = npt.NDArray[np.float64]
# The gradient at the solution, in the scaled variables, relative to that at zero weights.
TOLERANCE = 1e-11
_MEMORY = 30
_MOST_ITERATIONS = 20_000
# A feature that varies by fewer roundings of its largest value counts as constant.
_ROUNDINGS = 4
# So does one whose weight could overflow.
_SMALLEST_SPREAD = 1e-290


@dataclass(frozen=True)
class Logistic:
    """A fitted classifier: scores are features @ weight.T + bias.

    Attributes:
        weight, bias: float64, of features in the user's unit.
        classes: the user's labels, in the order of the rows of `weight`.
        penalty: of the fit.
        loss: the objective, penalty included.
        gradient: largest entry of the gradient in the scaled variables, relative to that at zero weights.
        iterations: of L-BFGS.
    """

    weight: Float[Tensor, "c p"]
    bias: Float[Tensor, " c"]
    classes: Int[Tensor, " c"]
    penalty: float
    loss: float
    gradient: float
    iterations: int

    def predict(self, features: Any) -> Int[Tensor, " n"]:
        """Return the label of the class with the largest score, the lowest of equal ones.

        Args:
            features: (n, p), a tensor or an array.
        """
        rows = torch.as_tensor(features).detach().to(device="cpu", dtype=torch.float64)
        scores = rows @ self.weight.T + self.bias
        return self.classes[scores.argmax(dim=1)]


class LogisticPath:
    """Fits to the same samples for several penalties, each starting from the solution of the last.

    Give penalties in descending order: a large one takes a few iterations, and each next one starts near its solution.

    Args:
        features: (n, p), any floating-point dtype.
        labels: (n,), 0 … num_classes - 1; a class may be missing.
        num_classes: c.
        standardize: divide each feature by its standard deviation; one that is constant up to rounding is left out.

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
    ) -> None:
        check_finite(features, "linear probe, features")
        if len(features) != len(labels) or not len(features):
            raise InputError(
                f"linear probe: {len(features)} features for {len(labels)} labels; give one of each"
            )
        if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
            raise InputError(
                f"linear probe: labels are {int(labels.min())} to {int(labels.max())}; give 0 to {num_classes - 1}"
            )
        if len(labels.unique()) < 2:
            raise InputError("linear probe: all samples are of one class; give samples of at least two")
        rows = features.to(device="cpu", dtype=torch.float64)
        self._mean = rows.mean(dim=0)
        self._units = _units(rows, features.dtype) if standardize else torch.ones_like(self._mean)
        self._axes, self._coordinates = _principal_axes((rows - self._mean) * self._units)
        self._targets = torch.nn.functional.one_hot(labels.cpu().long(), num_classes).double().numpy()
        # Start from zero weights and the class frequencies; a class without samples counts as half a sample.
        counts = self._targets.sum(axis=0)
        self._bias = np.log(np.maximum(counts, 0.5) / len(labels))
        self._weights: _Matrix = np.zeros((num_classes, self._coordinates.shape[1]))
        self._variances = np.square(self._coordinates).mean(axis=0)

    def fit(self, penalty: float, tolerance: float = TOLERANCE) -> Logistic:
        """Return the classifier for one penalty; warn where the tolerance was not reached.

        Raises:
            InputError: the penalty is not above zero: separable samples would have no solution.
        """
        if not 0 < penalty < math.inf:
            raise InputError(f"penalty is {penalty}; give a number above 0")
        scale = 1 / np.sqrt(self._variances + penalty)
        objective = _Objective(self._coordinates * scale, self._targets, penalty * np.square(scale))
        at_zero = objective(np.concatenate([np.zeros(self._weights.size), self._bias]))[1]
        # Zero weights may be the solution: at a large penalty, or where features say nothing about labels.
        size = max(float(np.abs(at_zero).max()), math.sqrt(EPS64))
        start = np.concatenate([(self._weights / scale).ravel(), self._bias])
        found = optimize.minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            options={
                "maxcor": _MEMORY,
                "maxiter": _MOST_ITERATIONS,
                "maxfun": 2 * _MOST_ITERATIONS,
                "gtol": tolerance * size,
                "ftol": 0.0,
            },
        )
        reached = float(np.abs(found.jac).max()) / size
        # The rounding of the loss, 1e-16 of it, hides further progress before the gradient is this small.
        if reached > max(1e3 * tolerance, 1e-5):
            warnings.warn(
                f"linear probe, penalty {penalty:g}: stopped after {found.nit} iterations with a gradient of "
                f"{reached:.1g} of that at zero weights; its accuracy may be slightly off",
                stacklevel=2,
            )
        self._weights, self._bias = objective.parts(found.x)
        self._weights = self._weights * scale
        weight = (torch.from_numpy(self._weights) @ self._axes.T) * self._units
        bias = torch.from_numpy(self._bias - self._bias.mean()) - weight @ self._mean
        return Logistic(
            weight, bias, torch.arange(len(weight)), penalty, float(found.fun), reached, int(found.nit)
        )


@dataclass(frozen=True)
class _Objective:
    """Loss and gradient as a function of weights (c, r) and bias (c,) in one vector.

    Attributes:
        coordinates: (n, r), scaled.
        targets: (n, c), one-hot.
        strength: (r,), the penalty along each axis.
    """

    coordinates: _Matrix
    targets: _Matrix
    strength: _Matrix

    def parts(self, variables: _Matrix) -> tuple[_Matrix, _Matrix]:
        num_classes, rank = self.targets.shape[1], self.coordinates.shape[1]
        return variables[: num_classes * rank].reshape(num_classes, rank), variables[num_classes * rank :]

    def __call__(self, variables: _Matrix) -> tuple[float, _Matrix]:
        weights, bias = self.parts(variables)
        scores = self.coordinates @ weights.T + bias
        log_sums: _Matrix = np.asarray(special.logsumexp(scores, axis=1))
        loss = (log_sums.sum() - np.vdot(scores, self.targets)) / len(scores)
        residual = (np.exp(scores - log_sums[:, None]) - self.targets) / len(scores)
        loss += 0.5 * float((np.square(weights) * self.strength).sum())
        gradient = residual.T @ self.coordinates + weights * self.strength
        return float(loss), np.concatenate([gradient.ravel(), residual.sum(axis=0)])


def fit_logistic(
    features: Float[Tensor, "n p"], labels: Int[Tensor, " m"], num_classes: int, penalty: float
) -> Logistic:
    """Fit once; for several penalties see `LogisticPath`.

    Raises:
        InputError: as `LogisticPath` and its `fit`.
    """
    return LogisticPath(features, labels, num_classes).fit(penalty)


def _units(rows: Float[Tensor, "n p"], dtype: torch.dtype) -> Float[Tensor, " p"]:
    """Return 1 / standard deviation of each feature; 0 for a feature that is constant up to rounding."""
    low, high = torch.aminmax(rows, dim=0)
    spread = high - low
    varies = spread > _SMALLEST_SPREAD
    varies &= spread > _ROUNDINGS * min(torch.finfo(dtype).eps, EPS32) * torch.maximum(low.abs(), high.abs())
    # In units of the spread: squares of very small or large values would be 0 or infinite.
    deviations = ((rows - low) / spread).std(dim=0, correction=0) * spread
    return torch.where(varies, 1 / deviations, 0.0)


def _principal_axes(centred: Float[Tensor, "n p"]) -> tuple[Float[Tensor, "p r"], _Matrix]:
    """Return the axes along which samples vary, and their coordinates (n, r) there."""
    _, values, axes = torch.linalg.svd(centred, full_matrices=False)
    nonzero = values > max(centred.shape) * EPS64 * values[0].clamp_min(torch.finfo(torch.float64).tiny)
    axes = axes[nonzero].T
    return axes, (centred @ axes).numpy()
