"""The order in which the penalties of a regression are solved, and where each of them starts.

Solutions are smooth functions of the logarithm of the penalty. A coarse grid, about a decade apart, is solved first. Each
next grid lies halfway between known penalties and starts from their interpolation, all of its penalties at once. With
eight penalties per decade, half of them need no step after interpolation.

Weights times (curvature + penalty / variance) are interpolated. For a quadratic loss they are constant, so that large
penalties, at which weights fall as 1 / penalty, are interpolated as accurately as small ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from collapselab.transfer.newton import Solution, minimise, sketch
from collapselab.transfer.objective import Problem, evaluate

_POINTS = 6
_COARSE = 10 * (
    1 + 1e-9
)  # largest ratio of neighbours in the coarse grid, and of those that are interpolated without a test
_NEAR = 1.5
# Penalties above this share of the mean variance take no more steps from zero weights than from a neighbour.
_LARGE = 1e-2
# Entries of k x c x n that are solved together.
_CPU_ENTRIES, _ACCELERATOR_ENTRIES = 2**24, 2**27


class Path:
    """Solutions of a problem for several penalties; each one starts from those that are known."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.zero = problem.at_zero()
        # Weights (c, r + 1) by penalty, float32: a start needs no more digits.
        self._known: dict[float, Tensor] = {}
        self._curvature = (1 - 1 / problem.num_classes) / problem.num_classes
        self._large = _LARGE * float(problem.deviations.square().sum()) / max(1, len(problem.deviations))
        entries = _CPU_ENTRIES if self.zero.device.type == "cpu" else _ACCELERATOR_ENTRIES
        self._together = max(1, entries // (problem.num_classes * len(problem.labels)))

    def slope(self) -> Float[Tensor, "c r1"]:
        """Return the gradient at zero weights, the same for every penalty."""
        return evaluate(self._problem, self.zero[None], self._tensor([1.0]), torch.float64).gradient[0]

    def start_from(self, penalty: float, weights: Float[Tensor, "c r1"]) -> None:
        """Start `penalty` from these weights, which are about its solution, if they are better than none."""
        # A feature that hardly varied where they were found may vary much here, and their objective be enormous.
        two = torch.stack([weights, self.zero])
        given, at_zero = evaluate(self._problem, two, self._tensor([penalty] * 2), torch.float64).loss
        if given < at_zero:
            self._known[penalty] = weights.float()

    def solve(self, penalties: list[float], tolerance: float) -> Iterator[dict[float, Solution]]:
        """Yield the solutions by penalty, some at a time, in the order in which they are found."""
        coarse, *finer = _levels(sorted(set(penalties), reverse=True))
        self._sketch([penalty for penalty in coarse if penalty not in self._known])
        for level in (coarse, *finer):
            for start in range(0, len(level), self._together):
                some = level[start : start + self._together]
                is_near = all(self._is_within(penalty, _NEAR) for penalty in some)
                found = minimise(
                    self._problem, self._starts(some), self._tensor(some), tolerance, is_near=is_near
                )
                self._known.update(
                    (penalty, one.weights.float()) for penalty, one in zip(some, found, strict=True)
                )
                yield dict(zip(some, found, strict=True))

    def _sketch(self, penalties: list[float]) -> None:
        """Make known about what the solutions for `penalties`, in descending order, are.

        Large ones start from zero weights, all at once; small ones one after another, each where the last ones point to.
        """
        large = [penalty for penalty in penalties if penalty >= self._large]
        groups = [large[at : at + self._together] for at in range(0, len(large), self._together)]
        groups += [[penalty] for penalty in penalties if penalty < self._large]
        for group in groups:
            starts = self._starts(group) if self._known else self.zero.repeat(len(group), 1, 1)
            weights = sketch(self._problem, starts, self._tensor(group))
            self._known.update(zip(group, weights.float(), strict=True))

    def _is_within(self, penalty: float, ratio: float) -> bool:
        """Return whether one known penalty is at most this ratio below, and another one above."""
        return any(1 < penalty / known <= ratio for known in self._known) and any(
            1 < known / penalty <= ratio for known in self._known
        )

    def _starts(self, penalties: list[float]) -> Float[Tensor, "k c r1"]:
        """Return interpolated weights where near neighbours are known, else the best of several guesses."""
        if all(self._is_within(penalty, _COARSE) for penalty in penalties):
            return self._through([self._nearest(penalty)[:_POINTS] for penalty in penalties], penalties)
        return torch.cat([self._best_guess(penalty) for penalty in penalties])

    def _best_guess(self, penalty: float) -> Float[Tensor, "1 c r1"]:
        if penalty in self._known:
            return self._known[penalty].double()[None]
        near = self._nearest(penalty)
        points = [near[:number] for number in range(1, min(3, len(near)) + 1)]
        same = [penalty] * len(points)
        guesses = torch.cat([self.zero[None], self._through(points, same)]) if points else self.zero[None]
        losses = evaluate(self._problem, guesses, self._tensor([penalty, *same]), torch.float32).loss
        return guesses[losses.argmin()][None]

    def _nearest(self, penalty: float) -> list[float]:
        """Return known penalties, the nearest one first; only `penalty` itself where it is known."""
        if penalty in self._known:
            return [penalty]
        return sorted(self._known, key=lambda known: abs(math.log(known / penalty)))

    def _through(self, points: list[list[float]], penalties: list[float]) -> Float[Tensor, "k c r1"]:
        """Return the value at each penalty of the polynomial through its points (Lagrange)."""
        known = sorted({point for some in points for point in some})
        shares = self.zero.new_zeros(len(penalties), len(known))
        for row, (some, penalty) in enumerate(zip(points, penalties, strict=True)):
            for point in some:
                others = (
                    math.log(penalty / other) / math.log(point / other) for other in some if other != point
                )
                shares[row, known.index(point)] = math.prod(others)
        values = torch.stack([self._known[point] for point in known]) * self._stiffness(known)
        return (torch.tensordot(shares.float(), values, dims=1) / self._stiffness(penalties)).double()

    def _stiffness(self, penalties: list[float]) -> Float[Tensor, "k 1 r1"]:
        return self._curvature + self._problem.strengths(self._tensor(penalties), torch.float32)

    def _tensor(self, penalties: list[float]) -> Float[Tensor, " k"]:
        return self.zero.new_tensor(penalties)


def _levels(penalties: list[float]) -> list[list[float]]:
    """Return penalties (in descending order) as a coarse grid and finer ones, each halfway between those before."""
    stride = 1
    while 2 * stride < len(penalties) and all(
        a <= _COARSE * b for a, b in zip(penalties, penalties[2 * stride :], strict=False)
    ):
        stride *= 2
    # With the last one, no penalty of a finer grid is outside.
    coarse = sorted({*penalties[::stride], *penalties[-1:]}, reverse=True)
    levels, known = [coarse], set(coarse)
    while stride > 1:
        stride //= 2
        levels.append([penalty for penalty in penalties[::stride] if penalty not in known])
        known.update(levels[-1])
    return levels
