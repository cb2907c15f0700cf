"""Containers of features and labels: each gives the numbers of the plain array, or one line that says what to do."""

from __future__ import annotations

import inspect
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

import collapselab
from collapselab import InputError

# The tests check annotations at run time; users pass anything.
measure: Any = inspect.unwrap(collapselab.measure)

LABELS = np.arange(48) % 3
X = np.round(np.random.default_rng(4).normal(size=(48, 5)) + LABELS[:, None], 2)
X[np.abs(X) < 0.3] = 0  # for the sparse kinds


def within_by_hand(x: Any, y: Any) -> float:
    rows, labels = np.asarray(x, dtype=np.float64), np.asarray(y)
    classes = np.unique(labels)
    means = np.stack([rows[labels == c].mean(0) for c in classes])
    within = np.mean(
        [((rows[labels == c] - m) ** 2).sum(1).mean() for c, m in zip(classes, means, strict=True)]
    )
    return float(within / (within + ((means - means.mean(0)) ** 2).sum(1).mean()))


class Subclass(torch.Tensor):
    """A tensor with behaviour of its own."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


def memory_map(path: Path) -> Any:
    np.save(path / "x.npy", X)
    return np.load(path / "x.npy", mmap_mode="r")


def own_rows(values: Any) -> Any:
    """An array-like that only has `__array__`."""

    class Rows:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.asarray(values, dtype)

    return Rows()


T = torch.from_numpy(X)
FEATURES: dict[str, Callable[[], Any]] = {
    "list": lambda: X.tolist(),
    "tuple of arrays": lambda: tuple(X),
    "tensors that require gradients": lambda: [row.requires_grad_() for row in T.clone()],
    "numbers in tensors": lambda: [[torch.tensor(v) for v in row] for row in X],
    "parameter": lambda: torch.nn.Parameter(T.clone()),
    "subclass": lambda: T.as_subclass(Subclass),
    "transposed": lambda: T.T.contiguous().T,
    "negative strides": lambda: X[::-1][::-1],
    "big-endian": lambda: X.astype(">f8"),
    "Fortran order": lambda: np.asfortranarray(X),
    "long double": lambda: X.astype(np.longdouble),
    "matrix": lambda: np.matrix(X),
    "frame": lambda: pd.DataFrame(X),
    "frame of nullable columns": lambda: pd.DataFrame(X).astype({0: "Float64", 2: "Float64"}),
    "frame with an index": lambda: pd.DataFrame(X, index=range(100, 148)),
    "sparse frame": lambda: pd.DataFrame(X).astype(pd.SparseDtype("float64", 0.0)),
    "csr": lambda: scipy.sparse.csr_matrix(X),
    "coo array": lambda: scipy.sparse.coo_array(X),
    "torch coo": lambda: T.to_sparse(),
    "torch coo, each entry in two halves": lambda: torch.sparse_coo_tensor(
        T.to_sparse().indices().repeat(1, 2), (T.to_sparse().values() / 2).repeat(2), T.shape
    ),
    "torch csr": lambda: T.to_sparse_csr(),
    "torch csc": lambda: T.to_sparse_csc(),
    "mask that hides nothing": lambda: np.ma.masked_array(X, np.zeros(X.shape, bool)),
    "masked rows that hide nothing": lambda: [np.ma.masked_array(row, [False] * 5) for row in X],
    "array-like": lambda: own_rows(X),
}


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:the matrix subclass")
@pytest.mark.parametrize("kind", FEATURES)
def test_features_in_any_container_give_the_same_number(kind: str) -> None:
    found = measure(FEATURES[kind](), LABELS, metrics=["normalized_within"])
    assert found["normalized_within"] == pytest.approx(within_by_hand(X, LABELS), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16])
def test_narrow_floats_are_measured_as_the_values_they_hold(dtype: torch.dtype) -> None:
    features = T.to(dtype)
    found = measure(features, LABELS, metrics=["normalized_within"])
    assert found["normalized_within"] == pytest.approx(within_by_hand(features.double(), LABELS), rel=1e-3)


def test_a_memory_map_is_measured(tmp_path: Path) -> None:
    found = measure(memory_map(tmp_path), LABELS, metrics=["normalized_within"])
    assert found["normalized_within"] == pytest.approx(within_by_hand(X, LABELS), rel=1e-12)


LABEL_KINDS: dict[str, Callable[[], Any]] = {
    "list": lambda: LABELS.tolist(),
    "floats": lambda: LABELS.astype(np.float32),
    "uint8 tensor": lambda: torch.from_numpy(LABELS).to(torch.uint8),
    "uint64": lambda: LABELS.astype(np.uint64),
    "bfloat16": lambda: torch.from_numpy(LABELS).bfloat16(),
    "tensors": lambda: list(torch.from_numpy(LABELS)),
    "series": lambda: pd.Series(LABELS, index=range(48, 0, -1)),
    "nullable": lambda: pd.Series(LABELS, dtype="Int64"),
    "categories": lambda: pd.Series(LABELS).astype("category"),
    "index": lambda: pd.Index(LABELS),
    "mask that hides nothing": lambda: np.ma.masked_array(LABELS, False),
}


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_labels_in_any_container_give_the_same_number(kind: str) -> None:
    found = measure(X, LABEL_KINDS[kind](), metrics=["normalized_within"])
    assert found["normalized_within"] == pytest.approx(within_by_hand(X, LABELS), rel=1e-12)


def test_two_classes_may_be_true_and_false() -> None:
    labels = LABELS > 0
    for given in (labels, torch.from_numpy(labels), labels.tolist()):
        found = measure(X, given, metrics=["normalized_within"])
        assert found["normalized_within"] == pytest.approx(within_by_hand(X, labels), rel=1e-12)


def hidden(*rows: int, of: Any = X) -> Any:
    mask = np.zeros(of.shape, bool)
    mask[list(rows)] = True
    return np.ma.masked_array(of, mask)


def frame_with(value: Any) -> pd.DataFrame:
    frame = pd.DataFrame(X).astype("Float64")
    frame.iloc[7, 1] = value
    return frame


MASKED_TENSOR = "ignore:The PyTorch API of MaskedTensors"
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "masked row": (lambda: measure(hidden(7), LABELS), "5 values of features are masked, the first in row 7 (counting from 0); leave"),
    "masked value": (
        lambda: measure(np.ma.masked_greater(X, X.max() - 1e-9), LABELS),
        "1 values of features are masked",
    ),
    "masked rows of a list": (lambda: measure([hidden(0, of=row) for row in X], LABELS), "are masked, the first in"),
    "masked label": (lambda: measure(X, hidden(7, of=LABELS)), "1 values of labels are masked, the first in row 7"),
    "masked constant": (lambda: measure(X, [np.ma.masked, *LABELS[1:].tolist()]), "labels"),
    "masked test": (lambda: measure(X, LABELS, test=(hidden(3), LABELS)), "test: 5 values of features are masked"),
    "masked predictions": (
        lambda: measure(X, LABELS, predictions=hidden(7, of=LABELS)),
        "1 values of predictions are masked",
    ),
    "masked weight": (lambda: measure(X, LABELS, weight=hidden(1, of=X[:3])), "values of weight are masked"),
    "masked tensor": (
        lambda: measure(torch.masked.masked_tensor(T, T > 0), LABELS),
        "values of features are masked",
    ),
    "missing value": (lambda: measure(frame_with(pd.NA), LABELS), "1 values of features are missing, the first in row 7"),
    "missing label": (
        lambda: measure(X, pd.Series([pd.NA, *LABELS[1:]], dtype="Int64")),
        "1 values of labels are missing, the first in row 0",
    ),
    "text in a frame": (lambda: measure(pd.DataFrame(X).assign(name="1.5"), LABELS), "features"),
    "complex": (lambda: measure(X + 1j, LABELS), "real and imaginary parts as separate features"),
    "complex tensor": (lambda: measure(T + 1j, LABELS), "real and imaginary parts as separate features"),
    "objects": (lambda: measure(X.astype(object), LABELS), "features are Python objects"),
    "huge integers": (lambda: measure([[10**400, 1]] * 48, LABELS), "features are Python objects"),
    "times": (lambda: measure(X.astype("M8[s]"), LABELS), "features have dtype datetime64[s]"),
    "records": (lambda: measure(np.zeros((48, 5), "f4,f8"), LABELS), "features have dtype"),
    "text": (lambda: measure(X.astype(str), LABELS), "features have dtype <U"),
    "strings": (lambda: measure(X, np.array(["cat", "dog", "eel"])[LABELS]), "number the classes 0, 1, 2"),
    "string categories": (lambda: measure(X, pd.Series(list("abc" * 16)).astype("category")), "number the classes"),
    "string series": (lambda: measure(X, pd.Series(list("abc" * 16))), "number the classes"),
    "one-hot": (lambda: measure(X, np.eye(3)[LABELS]), "labels have shape (48, 3)"),
    "column": (lambda: measure(X, LABELS[:, None]), "labels have shape (48, 1)"),
    "meta": (lambda: measure(torch.zeros(48, 5, device="meta"), LABELS), "meta device"),
    "nested": (lambda: measure(torch.nested.nested_tensor([T[0], T[1, :3]]), [0, 1]), "nested"),
    "ragged": (lambda: measure([[1.0, 2.0], [3.0]], [0, 1]), "features (list) cannot be read as numbers"),
    "ragged tensors": (lambda: measure([T[0], T[1, :3]], [0, 1]), "features (list) cannot be read as numbers"),
    "generator": (lambda: measure((row for row in X), LABELS), "features are Python objects"),
    "nothing": (lambda: measure(None, LABELS), "features are Python objects"),
    "mapping": (lambda: measure({"features": X}, LABELS), "features are Python objects"),
    "swapped": (lambda: measure(LABELS, X), "features are 1-D with shape (48,)"),
    "large sparse": (
        lambda: measure(scipy.sparse.coo_array(([1.0], ([0], [0])), shape=(48, 10**9)), LABELS),
        "features are sparse, and dense ones of shape (48, 1000000000) take 358 GiB",
    ),
    "large sparse tensor": (
        lambda: measure(torch.sparse_coo_tensor(torch.zeros(2, 1), [1.0], (48, 10**9)), LABELS),
        "features are sparse",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings(
    MASKED_TENSOR, "ignore:Warning. converting a masked", "ignore:The PyTorch API of nested"
)
@pytest.mark.parametrize("case", WRONG)
def test_what_holds_no_plain_numbers_is_refused_in_one_line(case: str) -> None:
    call, says = WRONG[case]
    with pytest.raises(InputError) as caught:
        call()
    assert says in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_an_array_that_raises_is_reported_in_one_line() -> None:
    class Broken:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            raise RuntimeError("not\nnow")

    with pytest.raises(
        InputError, match=r"^train: features \(Broken\) cannot be read as numbers \(not now\); give"
    ):
        measure(Broken(), LABELS)


def test_rows_left_out_as_the_message_says_give_the_number_of_the_other_rows() -> None:
    features, keep = hidden(7), np.arange(48) != 7
    found = measure(features[keep], LABELS[keep], metrics=["normalized_within"])
    assert found["normalized_within"] == pytest.approx(within_by_hand(X[keep], LABELS[keep]), rel=1e-12)


@pytest.mark.parametrize("top", [20_000_000, 2**62])
def test_large_label_ids_cost_neither_time_nor_memory(top: int) -> None:
    ids = np.array([0, top // 2, top])[LABELS]
    wanted = measure(X, LABELS, test=(X, LABELS))  # also imports what it needs
    tracemalloc.start()
    start = time.perf_counter()
    found = measure(X, ids, test=(X, ids))
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.splits == wanted.splits
    assert seconds < 5
    assert peak < 20 * 2**20
