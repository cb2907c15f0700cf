"""Newton's method for multinomial logistic regression at many penalties at once.

Directions come from conjugate gradients in float32, for all penalties together. Their preconditioner is diagonal:
coordinates are principal axes, along which the Hessian is close to (mean of P (1 - P)) x variance + penalty. Gradients are
float32 far from the optimum and float64 in the end, so that any gap down to float64's rounding can be reached.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.numerics import EPS32, EPS64
from collapselab.transfer.objective import Point, Problem, evaluate

_MOST_STEPS, _MOST_DIRECTIONS, _MOST_BACKTRACKS = 100, 250, 12
# A direction is accurate enough when the norm of its residual has fallen to this share: to the smaller one near the
# optimum, and to the larger one far from it, where an accurate direction is no better.
_FORCING = (0.1, 0.5)
# Or when the gap that it leaves is this share of the tolerance.
_SHARE_OF_TOLERANCE = 0.1
# float32 gradients are accurate enough for a gap of this size; a tighter one is reached by float64 gradients.
_REACHED_IN_FLOAT32 = 2e-7
# Gap of a sketch.
_ROUGH = 1e-2
# Share of the expected decrease of the objective that a step must reach; shorter ones are tried until one does.
_SUFFICIENT, _SHORTER = 1e-4, 1 / 3


@dataclass(frozen=True)
class Solution:
    """What was found for one penalty, in float64.

    Attributes:
        weights, gradient: (c, r + 1), in the units of `Point.weights`.
        loss: the objective.
        gap: bound on (loss - optimum) / optimum.
        converged: whether the tolerance was reached.
        steps: of Newton's method.
    """

    weights: Float[Tensor, "c r1"]
    gradient: Float[Tensor, "c r1"]
    loss: float
    gap: float
    converged: bool
    steps: int


def minimise(
    problem: Problem,
    weights: Float[Tensor, "k c r1"],
    penalties: Float[Tensor, " k"],
    tolerance: float,
    *,
    is_near: bool = False,
) -> list[Solution]:
    """Minimise from `weights` until every gap is at most `tolerance` x `Point.scale`, or rounding prevents progress.

    Args:
        is_near: `weights` may be accurate enough: begin in float64.
    """
    steps = torch.zeros(len(penalties), dtype=torch.long, device=weights.device)
    if not is_near:
        rough = max(tolerance / 2, _REACHED_IN_FLOAT32)
        point, steps = _newton(problem, weights, penalties, rough, torch.float32)
        weights = point.weights
        del point
    found, more = _newton(problem, weights, penalties, tolerance, torch.float64)
    # A gap above the loss bounds nothing.
    gaps = torch.where(found.gap < found.loss, found.gap / (found.loss - found.gap), torch.inf)
    scalars = (found.loss, gaps, found.has_converged(tolerance), steps + more)
    columns = (values.tolist() for values in scalars)
    return [Solution(*parts) for parts in zip(found.weights, found.gradient, *columns, strict=True)]


def sketch(
    problem: Problem, weights: Float[Tensor, "k c r1"], penalties: Float[Tensor, " k"]
) -> Float[Tensor, "k c r1"]:
    """Return about what minimises the objectives, from where `minimise` takes a few steps."""
    return _newton(problem, weights, penalties, _ROUGH, torch.float32)[0].weights


def _newton(
    problem: Problem,
    weights: Float[Tensor, "k c r1"],
    penalties: Float[Tensor, " k"],
    tolerance: float,
    dtype: torch.dtype,
) -> tuple[Point, Int[Tensor, " k"]]:
    point = evaluate(problem, weights, penalties, dtype)
    steps = torch.zeros(len(penalties), dtype=torch.long, device=weights.device)
    active = torch.arange(len(penalties), device=weights.device)
    for _ in range(_MOST_STEPS):
        active = active[~point.has_converged(tolerance)[active]]
        if not len(active):
            break
        now = point[active] if len(active) < len(penalties) else point
        directions = _directions(problem, now, penalties[active], tolerance)
        following, moved = _search(problem, now, directions, penalties[active], dtype)
        steps[active] += 1
        point.put(active, following)
        active = active[moved]
    return point, steps


def _search(
    problem: Problem,
    point: Point,
    directions: Float[Tensor, "k c r1"],
    penalties: Float[Tensor, " k"],
    dtype: torch.dtype,
) -> tuple[Point, Tensor]:
    """Return points along `directions` whose objective is lower, and which are (k,); the others stay where they are."""
    slopes = (point.gradient * directions).sum(dim=(1, 2))
    rounding = 4 * (EPS64 if dtype == torch.float64 else EPS32) * point.loss
    found = evaluate(problem, point.weights + directions, penalties, dtype)
    lengths = torch.ones_like(penalties)
    for _ in range(_MOST_BACKTRACKS):
        worse = ~(found.loss <= point.loss + _SUFFICIENT * lengths * slopes + rounding)
        if not worse.any():
            break
        lengths[worse] *= _SHORTER
        nearer = point.weights[worse] + lengths[worse, None, None] * directions[worse]
        found.put(worse, evaluate(problem, nearer, penalties[worse], dtype))
    # Where only rounding separates objectives, the gap decides.
    moved = (found.loss < point.loss - rounding) | (found.gap < 0.5 * point.gap)
    if not moved.all():
        found.put(~moved, point[~moved])
    return found, moved


def _directions(
    problem: Problem, point: Point, penalties: Float[Tensor, " k"], tolerance: float
) -> Float[Tensor, "k c r1"]:
    """Return inexact Newton directions, float64.

    Each penalty stops on its own: when the residual has fallen enough, or when the gap that it leaves is small enough.
    """
    state, sizes = _begin(problem, point, penalties, tolerance)
    directions = torch.zeros_like(state.solution)
    active = torch.arange(len(penalties), device=penalties.device)
    for _ in range(_MOST_DIRECTIONS):
        done = state.advance(problem)
        if done.any():
            directions[active[done]] = state.solution[done]
            active, state = active[~done], state[~done]
        if not len(active):
            break
    directions[active] = state.solution
    return directions.double() * sizes


@dataclass
class _ConjugateGradients:
    """Preconditioned conjugate gradients (Nocedal and Wright 2006, 5.1) in float32; k is the first dimension of tensors.

    Attributes:
        strengths: of the penalties (k, 1, r + 1).
        inverse: the preconditioner, the inverse of an approximate diagonal of the Hessian.
        forcing: square of the share of its first norm that the residual may keep.
        enough: gap that may be left.
        squares: of the norm of the residual, by the preconditioner.
    """

    point: Point
    penalties: Float[Tensor, " k"]
    strengths: Float[Tensor, "k 1 r1"]
    inverse: Float[Tensor, "k c r1"]
    forcing: Float[Tensor, " k"]
    enough: Float[Tensor, " k"]
    solution: Float[Tensor, "k c r1"]
    residual: Float[Tensor, "k c r1"]
    vectors: Float[Tensor, "k c r1"]
    squares: Float[Tensor, " k"]

    def __getitem__(self, kept: Tensor) -> _ConjugateGradients:
        return _ConjugateGradients(*(getattr(self, field.name)[kept] for field in fields(self)))

    def advance(self, problem: Problem) -> Tensor:
        """Take a step; return which penalties are done (k,)."""
        products = problem.curve(self.point, self.vectors) + self.strengths * self.vectors
        lengths = (self.squares / _dot(self.vectors, products)).float()[:, None, None]
        self.solution = self.solution + lengths * self.vectors
        self.residual = self.residual - lengths * products
        conditioned = _centred(self.inverse * self.residual)
        before, self.squares = self.squares, _dot(self.residual, conditioned)
        self.vectors = conditioned + (self.squares / before).float()[:, None, None] * self.vectors
        is_small = problem.gaps(self.residual, self.penalties) < self.enough
        return is_small | (self.squares < self.forcing) | ~self.squares.isfinite()


def _begin(
    problem: Problem, point: Point, penalties: Float[Tensor, " k"], tolerance: float
) -> tuple[_ConjugateGradients, Float[Tensor, "k 1 1"]]:
    """Return the start of conjugate gradients for the Newton equations, divided by the norms of gradients, and these.

    Gradients of any size are thus ordinary float32 numbers.
    """
    strengths = problem.strengths(penalties, torch.float32)
    inverse = 1 / (problem.curvatures(point) + strengths)
    sizes = (inverse.double() * point.gradient.square()).sum(dim=(1, 2)).sqrt()
    sizes = sizes.clamp_min(torch.finfo(torch.float64).tiny)[:, None, None]
    residual = _centred(-point.gradient / sizes).float()
    vectors = _centred(inverse * residual)
    state = _ConjugateGradients(
        point=point,
        penalties=penalties,
        strengths=strengths,
        inverse=inverse,
        forcing=(point.gap / point.scale).sqrt().clamp(*_FORCING).square(),
        enough=_SHARE_OF_TOLERANCE * tolerance * point.scale / sizes[:, 0, 0].square(),
        solution=torch.zeros_like(residual),
        residual=residual,
        vectors=vectors,
        squares=_dot(residual, vectors),
    )
    return state, sizes


def _centred(vectors: Float[Tensor, "k c r1"]) -> Float[Tensor, "k c r1"]:
    """Subtract the mean over classes: it changes no probability, only the penalty, and could grow by rounding."""
    return vectors - vectors.mean(dim=1, keepdim=True)


def _dot(first: Float[Tensor, "k c r1"], second: Float[Tensor, "k c r1"]) -> Float[Tensor, " k"]:
    return (first * second).sum(dim=(1, 2), dtype=torch.float64)
