"""NC4, nearest class means compared with the network's decisions: a second pass with frozen class means.

Far from the origin, rounding of float32 distances turns perfect agreement into chance. Scores are therefore computed
from shifted features in float32 with a bound on their rounding; rows whose best class the bound does not determine are
decided in float64, and remaining ties by differences. Decisions do not depend on how rows are batched.

Letters: n samples, p features, c classes.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collapselab.metrics.inputs import MetricInputs, once
from collapselab.numerics import block_elements, full_precision_products, middle_factor

# Squared distances closer than this, relative, are ties; ties go to the lowest class.
_TIE = 1e-12


def nearest_class_centre(
    features: Float[Tensor, "n p"], class_means: Float[Tensor, "c p"]
) -> Int[Tensor, " n"]:
    """Return argmin_c norm(h - mu_c) of each row; ties (1e-12 of a squared distance) go to the lowest class.

    Args:
        features: any floating dtype.
        class_means: float64.
    """
    return nearest_centre_rule(class_means)(features)


def nearest_centre_rule(class_means: Float[Tensor, "c p"]) -> DecisionRule:
    """Return `nearest_class_centre` prepared for features that come in batches."""
    # A float32 shift is subtracted from float32 features with a single rounding; means that overflow float32 stay.
    shift = class_means.mean(0)
    narrow = shift.float().double()
    shift = torch.where(torch.isfinite(narrow), narrow, shift)
    means = class_means - shift
    # norm(h - mu)^2 = norm(h)^2 + 2 (norm(mu)^2 / 2 - h . mu): the last bracket decides.
    return DecisionRule(means, means.square().sum(1) / 2, shift=shift, ties=_Distances(class_means))


def network_rule(weight: Float[Tensor, "c p"], bias: Float[Tensor, " c"] | None) -> DecisionRule:
    """Return the rule argmax_c (W h + b)_c, decided as in exact arithmetic; exact ties go to the lowest class.

    Args:
        weight, bias: any floating dtype.
    """
    # A common factor changes no decision.
    bias = weight.new_zeros(len(weight)) if bias is None else bias.to(weight.device)
    factor = middle_factor(weight, bias)
    weight, bias = weight.double() * factor, bias.double() * factor
    # Adding a vector to all rows of W changes no decision; subtracting their mean makes the scores small.
    rows = weight - weight.mean(0)
    shift = torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device)
    offsets = torch.zeros_like(bias) - bias
    return DecisionRule(rows, offsets, shift=shift, ties=_Scores(weight, -offsets))


class DecisionRule:
    """argmin_c offsets_c - (h - shift) . rows_c, decided in float32 where rounding allows, else in float64, else by
    `ties`.

    Args:
        rows: (c, p), float64.
        offsets: (c,), float64.
        shift: (p,), float64, subtracted from features.
        ties: decides between classes whose float64 scores are too close.
    """

    def __init__(self, rows: Tensor, offsets: Tensor, *, shift: Tensor, ties: _Distances | _Scores) -> None:
        self._rows, self._offsets, self._shift, self._ties = rows, offsets, shift, ties
        norm, offset = torch.stack(
            [torch.linalg.vector_norm(rows, dim=1).max(), offsets.abs().max()]
        ).tolist()
        self._largest = norm, offset
        self._fits = self._largest[0] < 2.0**60
        self._narrow = (rows.float().T, offsets.float(), shift.float())
        self._elsewhere: dict[torch.device, DecisionRule] = {}

    @torch.no_grad()
    def __call__(self, features: Float[Tensor, "n p"]) -> Int[Tensor, " n"]:
        """Return the chosen class of each row, on the device of the features."""
        if features.device != self._rows.device:
            return self._on(features.device)(features)
        rows, offsets, shift = self._narrow
        step = max(64, 2 * block_elements(features.device) // max(rows.shape))
        out = torch.empty(len(features), dtype=torch.int64, device=features.device)
        with full_precision_products(features.device):
            for start in range(0, len(features), step):
                block = features[start : start + step]
                if features.dtype == torch.float64 or not self._fits:
                    out[start : start + step] = self._in_double(block)
                    continue
                moved = block.float() - shift
                scores = torch.addmm(offsets, moved, rows, alpha=-1)
                best, winner = scores.min(dim=1)
                slack = _slack(moved, self._largest)
                # NaN leaves a row open too.
                open_rows = ((scores <= (best + slack)[:, None]).sum(1) != 1).nonzero()[:, 0]
                if len(open_rows):
                    winner[open_rows] = self._in_double(block[open_rows])
                out[start : start + step] = winner
        return out

    def _on(self, device: torch.device) -> DecisionRule:
        """Return the rule on another device, made once: it is small beside features."""
        if device not in self._elsewhere:
            rows, offsets, shift = (part.to(device) for part in (self._rows, self._offsets, self._shift))
            self._elsewhere[device] = DecisionRule(rows, offsets, shift=shift, ties=self._ties.on(device))
        return self._elsewhere[device]

    def _in_double(self, block: Tensor) -> Tensor:
        return _lowest_in_double(block, self._rows, self._offsets, self._largest, self._shift, self._ties)


def _slack(moved: Tensor, largest: tuple[float, float]) -> Tensor:
    """Return a bound on the rounding of the difference of two scores of one row.

    Args:
        moved: (n, p) shifted features.
        largest: norm of a row of the rule, and absolute offset.

    A dot product of p rounded factors is off by at most (p + 2) eps/2 norm(x) norm(y) (Higham 2002, 3.1), so
    a difference of two by twice that; blocked sums stay far below. Offsets are rounded once. Products and
    squares that underflow are off by up to the smallest normal number each.
    """
    dim, info = moved.shape[1], torch.finfo(moved.dtype)
    size = torch.linalg.vector_norm(moved, dim=1) + (dim * info.tiny) ** 0.5
    slack = (dim + 4) * info.eps * size * largest[0] + 4 * info.eps * largest[1]
    return slack + 4 * dim * info.tiny


def _lowest_in_double(
    block: Tensor,
    rows: Tensor,
    offsets: Tensor,
    largest: tuple[float, float],
    shift: Tensor,
    ties: _Distances | _Scores,
) -> Tensor:
    out = torch.empty(len(block), dtype=torch.int64, device=block.device)
    step = max(16, 2 * block_elements(block.device) // max(rows.shape))
    for start in range(0, len(block), step):
        piece = block[start : start + step].double()
        moved = piece - shift
        scores = torch.addmm(offsets, moved, rows.T, alpha=-1)
        best, winner = scores.min(dim=1)
        distances = (moved.square().sum(1) + 2 * best).clamp_min(0)
        slack = _slack(moved, largest) + ties.tolerance * distances
        candidates = scores <= (best + slack)[:, None]
        tied = (candidates.sum(1) > 1).nonzero()[:, 0]
        if len(tied):
            winner[tied] = ties.first_best(piece[tied], candidates[tied] & ties.first_of_equals)
        out[start : start + step] = winner
    return out


class _Distances:
    """Decides between classes by squared distances to their centres, computed from differences."""

    tolerance = _TIE

    def __init__(self, centres: Tensor) -> None:
        self.centres = centres

    def on(self, device: torch.device) -> _Distances:
        return _Distances(self.centres.to(device))

    @cached_property
    def first_of_equals(self) -> Tensor:
        return _first_of_equals(self.centres)

    def first_best(self, rows: Float[Tensor, "n p"], candidates: Bool[Tensor, "n c"]) -> Int[Tensor, " n"]:
        """Return the lowest class of each row whose distance is a tie with the smallest among the candidates."""
        distances = rows.new_full(candidates.shape, math.inf)
        pairs = candidates.nonzero()
        for some in pairs.split(max(1, block_elements(rows.device) // rows.shape[1])):
            row, centre = some[:, 0], some[:, 1]
            distances[row, centre] = (rows[row] - self.centres[centre]).square().sum(1)
        is_tied = candidates & (distances <= distances.amin(1, keepdim=True) * (1 + _TIE))
        numbers = torch.arange(len(self.centres), device=rows.device)
        return torch.where(is_tied, numbers, len(numbers)).amin(1)


class _Scores:
    """Decides between classes by the scores W h + b with a single rounding.

    Products of float32 numbers are exact in float64 and `fsum` rounds their sum once, so that equal scores
    are computed as equal even if the weights differ.
    """

    tolerance = 0.0

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    def on(self, device: torch.device) -> _Scores:
        return _Scores(self.weight.to(device), self.bias.to(device))

    @cached_property
    def first_of_equals(self) -> Tensor:
        return _first_of_equals(torch.column_stack([self.weight, self.bias]))

    @cached_property
    def _on_cpu(self) -> tuple[Tensor, Tensor]:
        return self.weight.cpu(), self.bias.cpu()

    def first_best(self, rows: Float[Tensor, "n p"], candidates: Bool[Tensor, "n c"]) -> Int[Tensor, " n"]:
        """Return the lowest class of each row whose score is the largest among the candidates."""
        pairs = zip(rows.cpu(), candidates.cpu(), strict=True)
        return torch.tensor([self._first_best(row, which.nonzero()[:, 0]) for row, which in pairs]).to(
            rows.device
        )

    def _first_best(self, row: Tensor, classes: Tensor) -> int:
        weight, bias = self._on_cpu
        scores = bias[classes].tolist()
        if bool(row.any()):
            products = (weight[classes] * row).tolist()
            scores = [math.fsum([*terms, shift]) for terms, shift in zip(products, scores, strict=True)]
        return int(classes[scores.index(max(scores))])


def _first_of_equals(rows: Tensor) -> Tensor:
    """Return a mask of the rows that do not equal an earlier row.

    Of equal classes only the first can be chosen; an untrained or a dead layer makes many of them equal.
    """
    _, group = torch.unique(rows, dim=0, return_inverse=True)
    numbers = torch.arange(len(rows), device=rows.device)
    first = torch.full_like(numbers, len(rows)).scatter_reduce_(0, group, numbers, "amin")
    return first[group] == numbers


@once
def ncc_agreement(inputs: MetricInputs) -> float | None:
    counts = inputs.nearest_centre
    if counts is None or counts.num_agreeing is None:
        return None
    return counts.num_agreeing / counts.num_samples


def ncc_mismatch(inputs: MetricInputs) -> float | None:
    agreement = ncc_agreement(inputs)
    return None if agreement is None else 1 - agreement


def ncc_accuracy(inputs: MetricInputs) -> float | None:
    counts = inputs.nearest_centre
    return None if counts is None else counts.num_correct / counts.num_samples
