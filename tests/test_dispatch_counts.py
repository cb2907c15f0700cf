"""The counter of read-backs itself: it sees each kind of them, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dispatch_counts import DispatchCounts

X = torch.tensor([3.0, 0.0, 2.0])
N = torch.tensor([0, 2, 1])
READ_BACKS: dict[str, Callable[[], object]] = {
    "float": lambda: float(X.sum()),
    "bool": lambda: bool(X.any()),
    "int": lambda: int(N[0]),
    "item": lambda: X[0].item(),
    "tolist": lambda: (N + 1).tolist(),
    "equal": lambda: torch.equal(X, X),
    "allclose": lambda: torch.allclose(X, X),
    "nonzero": lambda: X.nonzero(),
    "where": lambda: torch.where(X > 0),
    "mask": lambda: X[X > 0],
    "masked assignment": lambda: X.clone().__setitem__(X > 0, torch.ones(2)),
    "masked select": lambda: X.masked_select(X > 0),
    "unique": lambda: X.unique(),
    "unique rows": lambda: X[:, None].unique(dim=0),
    "bincount": lambda: torch.bincount(N),
    "repeats": lambda: X.repeat_interleave(N),
}
OTHERS: dict[str, Callable[[], object]] = {
    "sums": lambda: (X + X).sum(),
    "indexing": lambda: X[N],
    "index_add": lambda: X.clone().index_add_(0, N, X),
    "where": lambda: torch.where(X > 0, X, 0.0),
    "masked fill": lambda: X.masked_fill(X > 0, 1.0),
    "known repeats": lambda: X.repeat_interleave(N, output_size=3),
    "conversion": lambda: X.double().copy_(X),
}


@pytest.mark.parametrize("name", READ_BACKS)
def test_read_backs_are_counted(name: str) -> None:
    with DispatchCounts() as counts:
        READ_BACKS[name]()
    assert counts.read_backs.total() >= 1
    assert counts.operations.total() >= 1


@pytest.mark.parametrize("name", OTHERS)
def test_other_operations_are_no_read_backs(name: str) -> None:
    with DispatchCounts() as counts:
        OTHERS[name]()
    assert not counts.read_backs
    assert counts.operations.total() >= 1


def test_read_backs_of_another_device_are_left_out() -> None:
    with DispatchCounts("cuda") as counts:
        float(X.sum())
    assert not counts.read_backs
