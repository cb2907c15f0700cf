"""Nearest class means and the network's decisions, as in exact arithmetic, however rows are batched."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collapselab.metrics import decision
from collapselab.metrics.decision import nearest_centre_rule, nearest_class_centre, network_rule
from devices import accelerators, putting_on
from dispatch_counts import DispatchCounts
from oracles import as_double, nearest

dtypes = pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)


def draw(
    n: int, dim: int, num_classes: int, offset: float, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, dim, generator=generator, dtype=torch.float64) + offset
    return rows, torch.randn(num_classes, dim, generator=generator, dtype=torch.float64) + offset


@dtypes
@pytest.mark.parametrize("offset", [0.0, 100.0], ids="offset{}".format)
@pytest.mark.parametrize(("dim", "num_classes"), [(3, 50), (80, 7)], ids=str)
def test_nearest_against_brute_force(dtype: torch.dtype, offset: float, dim: int, num_classes: int) -> None:
    features, means = draw(400, dim, num_classes, offset)
    features = features.to(dtype)
    assert (
        nearest_class_centre(features, means).tolist() == nearest(as_double(features), means.numpy()).tolist()
    )


@pytest.mark.parametrize("size", [1e-25, 1e-22, 3e-21, 1e-12, 1e12, 1e25], ids=str)
def test_nearest_at_any_size(size: float) -> None:
    features, means = draw(300, 40, 9, 0.3)
    features = (features * size).float()
    # Scaling both by a power of ten rounds nothing in the comparison beyond float64.
    expected = nearest(as_double(features) / size, means.numpy())
    assert nearest_class_centre(features, means * size).tolist() == expected.tolist()


def test_nearest_beyond_float32() -> None:
    features, means = draw(100, 5, 4, 0.3)
    expected = nearest(features.numpy(), means.numpy())
    assert nearest_class_centre(features * 1e60, means * 1e60).tolist() == expected.tolist()


@dtypes
@pytest.mark.parametrize("offset", [0.0, 64.0], ids="offset{}".format)
def test_ties_go_to_the_lowest_class(dtype: torch.dtype, offset: float) -> None:
    """Points of a grid, many of them equally far from two or four centres, and two centres that coincide."""
    axis = torch.arange(9.0) / 2
    features = torch.cartesian_prod(axis, axis) + offset
    means = torch.tensor([[4.0, 0], [0, 0], [4, 4], [0, 4], [0, 0]], dtype=torch.float64) + offset
    expected = nearest(features.double().numpy(), means.numpy())
    found = nearest_class_centre(features.to(dtype), means)
    assert found.tolist() == expected.tolist()
    assert 4 not in found.tolist()


@pytest.mark.parametrize("relative", [1e-15, 1e-13], ids=str)
def test_distances_that_differ_by_less_than_1e_12_are_ties(relative: float) -> None:
    means = torch.tensor([[1.0 + relative], [-1.0]], dtype=torch.float64)
    assert nearest_class_centre(torch.zeros(1, 1, dtype=torch.float64), means).tolist() == [0]


def test_distances_that_differ_by_more_are_not() -> None:
    means = torch.tensor([[1.0 + 1e-11], [-1.0]], dtype=torch.float64)
    assert nearest_class_centre(torch.zeros(1, 1, dtype=torch.float64), means).tolist() == [1]


@given(cuts=st.lists(st.integers(1, 299), max_size=6, unique=True))
def test_nearest_does_not_depend_on_batches(cuts: list[int]) -> None:
    features, means = draw(300, 20, 6, 100.0)
    features = features.float()
    pieces = [nearest_class_centre(piece, means) for piece in features.tensor_split(sorted(cuts))]
    assert torch.equal(torch.cat(pieces), nearest_class_centre(features, means))


# ---------------------------------------------------------------- decisions of the network


def exact_decisions(features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> list[int]:
    """In rational arithmetic, the first of equals."""
    rows = [[Fraction(value) for value in row] for row in weight.double().tolist()]
    shifts = (
        [Fraction(0)] * len(rows) if bias is None else [Fraction(value) for value in bias.double().tolist()]
    )
    out = []
    for h in features.double().tolist():
        exact = [Fraction(value) for value in h]
        scores = [
            sum((w * x for w, x in zip(row, exact, strict=True)), start=shift)
            for row, shift in zip(rows, shifts, strict=True)
        ]
        out.append(scores.index(max(scores)))
    return out


@dtypes
@pytest.mark.parametrize("with_bias", [False, True], ids=["no bias", "bias"])
def test_decisions_in_exact_arithmetic(dtype: torch.dtype, with_bias: bool) -> None:
    features, weight = draw(150, 12, 5, 0.5)
    bias = weight[:, 0].to(dtype) if with_bias else None
    features, weight = features.to(dtype), weight.to(dtype)
    assert network_rule(weight, bias)(features).tolist() == exact_decisions(features, weight, bias)


def test_equal_scores_of_different_rows_go_to_the_lowest_class() -> None:
    """Small whole numbers, where scores are often equal though weights are not; thirds in the mean round."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randint(-3, 4, (300, 6), generator=generator).float() / 8
    weight = torch.randint(-3, 4, (7, 6), generator=generator).float() * 0.1
    bias = torch.randint(-2, 3, (7,), generator=generator).float() / 8
    assert network_rule(weight, bias)(features).tolist() == exact_decisions(features, weight, bias)


@pytest.mark.parametrize("num_classes", [6, 1000])
def test_equal_rows_of_the_weight_go_to_the_lowest_class(num_classes: int) -> None:
    features, weight = draw(50, 64, num_classes // 2, 0.0)
    found = network_rule(weight.repeat(2, 1).float(), None)(features.float())
    assert int(found.max()) < num_classes // 2


def test_a_bias_far_above_the_scores() -> None:
    features, weight = draw(200, 6, 5, 0.0)
    bias = torch.full((5,), 1e6)
    assert torch.equal(
        network_rule(weight.float(), bias)(features.float()),
        network_rule(weight.float(), None)(features.float()),
    )


@pytest.mark.parametrize("given", ["features", "weight"])
def test_zeros_decide_for_the_first_class(given: str) -> None:
    features, weight = draw(2000, 64, 100, 0.0)
    (features if given == "features" else weight).zero_()
    assert not bool(network_rule(weight.float(), None)(features.float()).any())


def test_fast_float32_products_do_not_decide() -> None:
    features, weight = draw(500, 64, 10, 100.0)
    plain = network_rule(weight.float(), None)(features.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network_rule(weight.float(), None)(features.float()), plain)


def test_an_argmax_of_rounded_scores_would_differ() -> None:
    """The tests above are worth something: float16 scores decide otherwise."""
    features, weight = draw(1000, 12, 5, 0.5)
    exact = np.array(exact_decisions(features.half(), weight.half(), None))
    rounded = (features.half() @ weight.half().T).argmax(1).numpy()
    assert (exact != rounded).any()


# ---------------------------------------------------------------- many ties


def grid(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of a grid, most of them equally far from several of its corners; the last corner is there twice."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randint(0, 3, (n, 6), generator=generator).float()
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 2.0])] * 6)[torch.randperm(64, generator=generator)]
    return features, torch.cat([corners, corners[-1:]]).double()


def test_many_ties_go_to_the_lowest_class(monkeypatch: pytest.MonkeyPatch) -> None:
    features, means = grid(500)
    expected = nearest(features.double().numpy(), means.numpy()).tolist()
    assert nearest_class_centre(features, means).tolist() == expected
    monkeypatch.setattr(decision, "block_elements", lambda _device: 60)  # ten pairs at a time
    assert nearest_class_centre(features, means).tolist() == expected


@accelerators
@pytest.mark.parametrize("rule", ["distances", "scores"])
def test_ties_of_many_rows_are_decided_together(accelerator: str, rule: str) -> None:
    def decide(features: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
        if rule == "distances":
            return nearest_centre_rule(means)(features)
        return network_rule(means.float() - 1, None)(features - 1)

    features, means = grid(400)
    expected, waits = decide(features, means), []
    with putting_on(accelerator) as put:
        for number in (20, 400):
            rows, centres = put(features[:number].clone()), put(means)
            with DispatchCounts("cuda") as counts:
                found = decide(rows, centres)
            waits.append(counts.read_backs.total())
            assert found.tolist() == expected[:number].tolist()
    assert waits[0] == waits[1] <= 16  # none of them for a row
