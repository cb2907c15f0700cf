"""The objective of multinomial logistic regression at many penalties at once, its derivatives, and how far it is from optimal.

All penalties share the features, so that the scores of all of them are one matrix product of width (number of
penalties) x c. Points are computed in float32, or in float64 with a certificate:

The bias is minimised exactly (Newton steps on the scores). The objective minimised over the bias is strongly convex in the
weights with modulus `penalty`, because the loss is convex in weights and bias together. Therefore
objective - optimum <= norm(gradient of weights)^2 / (2 penalty), which is the gap to the dual objective at P - Y.

Where samples are separable, the probability of the true class is close to 1. Everything is therefore computed from the
scores relative to that of the true class, and from the probabilities of the other classes, which keep their digits.

Shapes: n samples, r coordinates, c classes, k penalties. Arrays of classes and samples are k x c x n.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.numerics import EPS64, block_elements

_MOST_BIAS_STEPS = 8
# The error after a Newton step is about the square of its length.
_SMALL_STEP = 1e-6
# Strengths above this leave no weight; their products stay finite.
_LARGEST_STRENGTH = {torch.float32: 1e25, torch.float64: 1e290}
_ROUNDINGS = 16
# Of the widest vector registers, in float32.
_LANES = 16


@dataclass(frozen=True)
class Point:
    """Where penalties stand: weights, and what is known there. Tensors have k as their first dimension.

    Attributes:
        weights: (k, c, r + 1), float64, in units in which each coordinate has variance 1; the last one is the bias.
        loss: the objectives (k,).
        gradient: of the objective with respect to `weights`.
        gap: bounds on objective less optimum (k,).
        scale: the objective, or how far below that of zero weights it is where that is less (k,).
        others: probability of each class; 0 at the true class. float32.
        true: probability of the true class (k, 1, n). float32.
    """

    weights: Float[Tensor, "k c r1"]
    loss: Float[Tensor, " k"]
    gradient: Float[Tensor, "k c r1"]
    gap: Float[Tensor, " k"]
    scale: Float[Tensor, " k"]
    others: Float[Tensor, "k c n"]
    true: Float[Tensor, "k 1 n"]

    def __getitem__(self, kept: Tensor) -> Point:
        return Point(*(getattr(self, field.name)[kept] for field in fields(self)))

    def put(self, where: Tensor, other: Point) -> None:
        for field in fields(self):
            getattr(self, field.name)[where] = getattr(other, field.name)

    def has_converged(self, tolerance: float) -> Tensor:
        """Return whether gaps are at most `tolerance` x `scale` (k,). Below rounding of the loss no gap is too large."""
        return self.gap <= tolerance * self.scale + _ROUNDINGS * EPS64 * self.loss


class Problem:
    """Features and labels of a regression.

    Args:
        coordinates: (n, r), float64: centred features along orthonormal axes.
        deviations: root mean square of each coordinate (r,), above 0.
        labels: (n,), 0 … num_classes - 1, every class at least once.
    """

    def __init__(
        self,
        coordinates: Float[Tensor, "n r"],
        deviations: Float[Tensor, " r"],
        labels: Int[Tensor, " n"],
        num_classes: int,
    ) -> None:
        self.rows = coordinates.new_ones(len(coordinates), len(deviations) + 1)
        torch.div(coordinates, deviations, out=self.rows[:, :-1])
        self.rows32 = self.rows.float()
        self.deviations, self.labels, self.num_classes = deviations, labels, num_classes
        frequencies = labels.bincount(minlength=num_classes).double() / len(labels)
        self.log_frequencies = frequencies.log()
        # The objective at zero weights.
        self.entropy = -float(frequencies @ self.log_frequencies)
        self._one_hot = torch.nn.functional.one_hot(labels, num_classes).float()
        # Relative to the largest: their squares are ordinary float32 numbers whatever the unit of the features is.
        self._largest = float(deviations.max()) if len(deviations) else 1.0
        self._relative = torch.cat([deviations / self._largest, deviations.new_zeros(1)])
        self._longest = float(torch.linalg.vector_norm(coordinates / self._largest, dim=1).max())

    def at_zero(self) -> Float[Tensor, "c r1"]:
        """Return zero weights and the bias that is best with them: the logarithms of the class frequencies."""
        weights = self.rows.new_zeros(self.num_classes, self.rows.shape[1])
        weights[:, -1] = self.log_frequencies
        return weights

    def strengths(
        self, penalties: Float[Tensor, " k"], dtype: torch.dtype = torch.float64
    ) -> Float[Tensor, "k 1 r1"]:
        """Return what the penalties are in the units of the weights; 0 for the bias."""
        of_weights = (
            (penalties.sqrt()[:, None] / self.deviations).square().clamp_max(_LARGEST_STRENGTH[dtype])
        )
        return torch.cat([of_weights, of_weights.new_zeros(len(penalties), 1)], dim=1)[:, None].to(dtype)

    def blocks(self, width: int) -> Iterator[slice]:
        """Return slices of samples; `width` values of each sample fit into a cache together."""
        step = max(_LANES, block_elements(self.rows.device) // width // _LANES * _LANES)
        for start in range(0, len(self.rows), step):
            yield slice(start, min(start + step, len(self.rows)))

    def true_class(self, block: slice, number: int) -> Int[Tensor, "k 1 m"]:
        return self.labels[block].expand(number, 1, -1)

    def gaps(
        self, gradient: Float[Tensor, "k c r1"], penalties: Float[Tensor, " k"], excess: Tensor | float = 0.0
    ) -> Float[Tensor, " k"]:
        """Return norm(gradient of weights)^2 / (2 penalty), with `excess` added to norms in units of the largest deviation."""
        squares = (gradient * self._relative.to(gradient.dtype)).square().sum(dim=(1, 2), dtype=torch.float64)
        return ((squares.sqrt() + excess) * (self._largest / penalties.sqrt())).square() / 2

    def bounds(
        self, gradient: Float[Tensor, "k c r1"], penalties: Float[Tensor, " k"], spread: Float[Tensor, " k"]
    ) -> Float[Tensor, " k"]:
        """Return bounds on objective less optimum, with what remains of the gradient of the bias (rounding).

        Moving that share of the probability between classes makes P - Y a feasible point of the dual problem. It changes
        the dual objective by the Kullback-Leibler divergence of the moved share, at most share x (1 - log of the smallest
        probability), and the gradient of the weights by at most share x (norm of the longest row).

        Args:
            spread: of the scores.
        """
        share = gradient[:, :, -1].abs().sum(dim=1)
        return self.gaps(gradient, penalties, share * self._longest) + share * (
            1 + math.log(self.num_classes) + spread
        )

    def scales(self, loss: Float[Tensor, " k"], of_penalty: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Return what gaps are relative to (see `Point`).

        The optimum is below the objective of zero weights by at least its penalty (strong convexity), which has digits
        where the difference of the two has none.
        """
        below_zero_weights = torch.maximum(self.entropy - loss, of_penalty)
        return torch.minimum(loss, below_zero_weights).clamp_min(0)

    def curvatures(self, point: Point) -> Float[Tensor, "k c 1"]:
        """Return the mean over samples of P (1 - P) of each class."""
        others = (point.others - point.others.square()).sum(dim=2)
        of_true = (point.true * (1 - point.true)).squeeze(1) @ self._one_hot
        return ((others + of_true) / len(self.labels)).clamp_min(torch.finfo(torch.float32).tiny)[:, :, None]

    def curve(self, point: Point, vectors: Float[Tensor, "k c r1"]) -> Float[Tensor, "k c r1"]:
        """Return Hessians of the mean loss times vectors, float32."""
        number, classes, width = vectors.shape
        flat, product = vectors.reshape(-1, width), _aligned_zeros(vectors, number * classes, width)
        for block in self.blocks(number * classes):
            rows, others = self.rows32[block], point.others[:, :, block]
            change = _aligned_zeros(flat, len(flat), len(rows)).addmm_(flat, rows.T).view(number, classes, -1)
            true_class = self.true_class(block, number)
            change -= change.gather(1, true_class)
            change *= others
            mean = change.sum(dim=1, keepdim=True)
            change.addcmul_(others, mean, value=-1)
            change.scatter_(1, true_class, -mean * point.true[:, :, block])
            product.addmm_(change.view(number * classes, -1), rows)
        return product.view(number, classes, width) / len(self.labels)


def evaluate(
    problem: Problem, weights: Float[Tensor, "k c r1"], penalties: Float[Tensor, " k"], dtype: torch.dtype
) -> Point:
    """Return the point at `weights`, computed in `dtype`; in float64 with the bias that is best with them.

    In float32 the bias is taken as it is, and `gap` is an estimate, no bound.
    """
    number, classes, width = weights.shape
    exact = dtype == torch.float64
    rows = problem.rows if exact else problem.rows32
    flat = weights.to(dtype).reshape(-1, width)
    others = torch.empty(number, classes, len(rows), dtype=torch.float32, device=rows.device)
    true = torch.empty_like(others[:, :1])
    scores = spread = None
    if exact:
        scores = torch.empty(others.shape, dtype=dtype, device=rows.device)
        torch.mm(flat, rows.T, out=scores.view(number * classes, -1))
        shift = _best_bias(problem, scores)
        weights = weights.clone()
        weights[:, :, -1] += shift
        spread = scores.amax(dim=(1, 2)) - scores.amin(dim=(1, 2))
    loss = torch.zeros(number, dtype=torch.float64, device=rows.device)
    gradient = _aligned_zeros(flat, *flat.shape)
    for block in problem.blocks(number * classes):
        if scores is None:
            width = block.stop - block.start
            part = (
                _aligned_zeros(flat, len(flat), width).addmm_(flat, rows[block].T).view(number, classes, -1)
            )
        else:
            part = scores[:, :, block].contiguous()
        true_class = problem.true_class(block, number)
        losses, false = _softmax_(part, true_class)
        loss += losses.sum(dim=(1, 2), dtype=torch.float64)
        others[:, :, block] = part
        true[:, :, block] = 1 - false
        part.scatter_(1, true_class, -false)
        gradient.addmm_(part.view(number * classes, -1), rows[block])
    strengths = problem.strengths(penalties)
    full = gradient.view(weights.shape).double() / len(rows) + strengths * weights
    of_penalty = 0.5 * (strengths * weights.square()).sum(dim=(1, 2))
    loss = loss / len(rows) + of_penalty
    gap = problem.gaps(full, penalties) if spread is None else problem.bounds(full, penalties, spread)
    return Point(weights, loss, full, gap, problem.scales(loss, of_penalty), others, true)


def _aligned_zeros(like: Tensor, height: int, width: int) -> Float[Tensor, "height width"]:
    """Return zeros whose rows begin at multiples of the width of vector registers.

    Products into such matrices take two thirds of the time (float32, MKL on a CPU with AVX-512).
    """
    return like.new_zeros(height, -(-width // _LANES) * _LANES)[:, :width]


def _softmax_(
    scores: Float[Tensor, "k c m"], true_class: Int[Tensor, "k 1 m"]
) -> tuple[Float[Tensor, "k 1 m"], Float[Tensor, "k 1 m"]]:
    """Replace scores by probabilities of the other classes; return losses and the probability of all others."""
    scores -= scores.gather(1, true_class)
    largest = scores.amax(dim=1, keepdim=True)  # at least 0, the score of the true class
    scores -= largest
    scores.exp_().scatter_(1, true_class, 0.0)
    others = scores.sum(dim=1, keepdim=True)
    beyond_one = others + torch.expm1(-largest)
    scores /= 1 + beyond_one
    return largest + torch.log1p(beyond_one), others / (1 + beyond_one)


def _best_bias(problem: Problem, scores: Float[Tensor, "k c n"]) -> Float[Tensor, "k c"]:
    """Add to scores (float64), in place, what is best to add to the scores of each class; return it.

    Newton steps; the Hessian, c x c, is a graph Laplacian, whose diagonal is computed without cancellation. After a small
    step the next one would be below rounding.
    """
    number, classes, _ = scores.shape
    total = scores.new_zeros(number, classes)
    for _ in range(_MOST_BIAS_STEPS):
        gradient, laplacian = scores.new_zeros(number, classes), scores.new_zeros(number, classes, classes)
        for block in problem.blocks(number * classes):
            part = scores[:, :, block].clone()
            true_class = problem.true_class(block, number)
            false = _softmax_(part, true_class)[1]
            gradient += part.scatter(1, true_class, -false).sum(dim=2)
            part.scatter_(1, true_class, 1 - false)
            laplacian.baddbmm_(part, part.transpose(1, 2), alpha=-1)
        diagonal = laplacian.diagonal(dim1=1, dim2=2)
        diagonal.zero_()
        diagonal -= laplacian.sum(dim=2)
        scale = diagonal.mean(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        # Adding the same to all classes changes nothing; a constant makes the system regular there.
        step = -torch.linalg.solve_ex(laplacian / scale[:, :, None] + 1 / classes, gradient / scale)[0]
        step = (step / step.abs().amax(dim=1, keepdim=True).clamp_min(1)).nan_to_num(0.0, 0.0, 0.0)
        scores += step[:, :, None]
        total += step
        if float(step.abs().max()) < _SMALL_STEP:
            break
    return total
