"""The largest eigenvalue of spectra with and without gaps, of any size, one at a time and many at once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from collapselab.metrics import eigenvalues, spectrum
from collapselab.metrics.eigenvalues import largest_eigenvalue, largest_eigenvalues
from devices import accelerators, putting_on
from dispatch_counts import DispatchCounts
from helpers import assert_close

SIZE = 300
KINDS = (
    "equal", "double", "nearly equal", "half nearly equal", "power law", "exponential", "low rank", "rank one",
    "uniform", "dense at the end", "zero",
)  # fmt: skip
kinds = pytest.mark.parametrize("kind", KINDS)


def values_of(kind: str, size: int) -> Tensor:
    places = torch.linspace(0, 1, size, dtype=torch.float64)
    return {
        "equal": torch.ones_like(places),
        "double": torch.where(places < 1.5 / size, 2.0, places),
        "nearly equal": 1 - 1e-9 * places,
        "half nearly equal": torch.where(places < 0.5, 1.0, 1 - 1e-13 * places),
        "power law": (1 + size * places) ** -1,
        "exponential": torch.exp(-40 * places),
        "low rank": torch.where(places < 0.01, 1 - places, 0.0),
        "rank one": (places == 0).double(),
        "uniform": places,
        "dense at the end": 1
        + torch.cos(math.pi * places),  # Lanczos iteration does not converge in its steps
        "zero": torch.zeros_like(places),
    }[kind]


def matrix_of(values: Tensor) -> Tensor:
    p = len(values)
    basis = torch.linalg.qr(torch.randn(p, p, generator=torch.manual_seed(0), dtype=torch.float64))[0]
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2


@accelerators
@pytest.mark.parametrize("size", [1, 2, 7, SIZE])
def test_many_at_once_of_any_scale(accelerator: str, size: int) -> None:
    """Squares of 1e-200 are zero in float64, and those of 1e200 are infinite."""
    scales = torch.tensor([1.0, 1e-200, 1e200], dtype=torch.float64)
    spectra = torch.stack([values_of(kind, size) for kind in KINDS])
    stack = torch.stack([matrix_of(values) for values in spectra])
    stack = (scales[:, None, None, None] * stack).flatten(0, 1)
    with putting_on(accelerator) as put:
        found = largest_eigenvalues(put(stack)).cpu()
    expected = (scales[:, None] * spectra.amax(1)).flatten()
    assert bool((found[expected == 0] == 0).all())
    for one, other in zip(found.tolist(), expected.tolist(), strict=True):
        assert one == pytest.approx(other, rel=1e-13, abs=0)


@accelerators
def test_many_at_once_are_not_read_back_and_take_few_operations(accelerator: str) -> None:
    stack = torch.stack([matrix_of(values_of("power law", 20))] * 50)
    with putting_on(accelerator) as put, DispatchCounts("cuda") as counts:
        largest_eigenvalues(put(stack))
    assert not counts.read_backs
    assert 0 < counts.operations.total() < 300


@accelerators
def test_slices_of_a_stack(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = torch.stack([k * matrix_of(values_of("uniform", 20)) for k in range(1, 8)])
    monkeypatch.setattr(eigenvalues, "block_elements", lambda _device: 3 * 20**2)
    with putting_on(accelerator) as put:
        found = largest_eigenvalues(put(stack)).cpu()
        none = largest_eigenvalues(put(stack[:0])).cpu()
    assert_close(found, torch.arange(1.0, 8.0), rel=1e-13, why="float64 products")
    assert none.shape == (0,)


@kinds
@accelerators
@pytest.mark.parametrize("squared_up_to", [0, 4096], ids=["the matrix", "a power"])
def test_one_large_matrix_on_an_accelerator(
    accelerator: str, kind: str, squared_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eigenvalues, "_MAX_SIZE_OF_SQUARING", 0)
    monkeypatch.setattr(eigenvalues, "_MAX_SIZE_OF_FEW_SQUARINGS", squared_up_to)
    values = values_of(kind, SIZE)
    with putting_on(accelerator) as put:
        found = largest_eigenvalue(put(matrix_of(values) * 1e-200))
    assert found == pytest.approx(float(values.max()) * 1e-200, rel=1e-12, abs=0)


@kinds
def test_one_matrix_on_the_cpu(kind: str) -> None:
    values = values_of(kind, SIZE)
    assert largest_eigenvalue(matrix_of(values)) == pytest.approx(float(values.max()), rel=1e-12, abs=0)


@accelerators
def test_a_zero_up_to_rounding_is_not_negative(accelerator: str) -> None:
    with putting_on(accelerator) as put:
        assert largest_eigenvalue(put(torch.diag(torch.tensor([-1e-20, -2e-20]).double()))) == 0.0


@accelerators
@pytest.mark.parametrize("limit", [1, 1000, 2**23])
def test_classes_of_many_sizes_are_taken_together(
    accelerator: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes of 0 to 90 rows in 12 features, in groups whose rows are padded with zeros."""
    labels = torch.cat([torch.full((size,), c) for c, size in enumerate([0, 1, 90, 3, 12, 12, 5, 40, 3])])
    labels = labels[torch.randperm(len(labels), generator=torch.manual_seed(0))]
    rows = torch.randn(len(labels), 12, generator=torch.manual_seed(1)) + labels[:, None]
    classes = [rows[labels == c].double() for c in range(9)]
    means = torch.stack([each.mean(0) if len(each) else torch.zeros(12) for each in classes]).double()
    monkeypatch.setattr(spectrum, "block_elements", lambda _device: limit)
    with putting_on(accelerator) as put:
        found = spectrum.top_eigenvalues_of_rows(put(rows), put(labels), put(means)).tolist()
    for value, each in zip(found, classes, strict=True):
        expected = float(torch.linalg.eigvalsh(each.T.cov(correction=0))[-1]) if len(each) > 1 else 0.0
        assert value == pytest.approx(expected, rel=1e-12, abs=1e-12)
