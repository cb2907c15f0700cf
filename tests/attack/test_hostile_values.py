"""A seeded attack with values that nobody should use: each ends in a right number or in one printable line.

COLLAPSELAB_ATTACK multiplies the number of attempts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hostile import (
    INPUTS,
    LABELS,
    SEED,
    TIMES,
    kept,
    linear_probe,
    measure,
    model_named,
    profile,
    refusal,
)
from torch import nn

from collapselab.data import open_data_set
from collapselab.probes.options import OPTIONS

NUMBERS = (
    0.0, -0.0, 1.0, -1.0, 0.5, 5e-324, 1e-310, 1e-200, 1e-30, 1e30, 1e129, 1e131, 1e200, 1e308, -1e308, np.nan, np.inf,
    -np.inf, 2.0**53 + 2, -(2.0**63), 2.0**64,
)  # fmt: skip
DTYPES = (
    np.float64,
    np.float32,
    np.float16,
    np.int64,
    np.uint8,
    np.bool_,
    np.complex64,
    object,
    "U8",
    "M8[s]",
    "V4",
)


def hostile_array(rng: np.random.Generator, base: Any) -> Any:
    """Return an array that is changed in one or two ways: values, dtype, shape, scale, mask."""
    array = np.array(base)
    for _ in range(rng.integers(1, 3)):
        kind = rng.integers(0, 8)
        if kind == 0 and array.size and array.dtype.kind == "f":
            array.reshape(-1)[rng.integers(0, array.size)] = rng.choice(NUMBERS)
        elif kind == 1 and array.dtype.kind == "f":
            array = array * rng.choice(NUMBERS)
        elif kind == 2:
            with np.errstate(all="ignore"):
                try:
                    array = array.astype(DTYPES[rng.integers(0, len(DTYPES))])
                except (TypeError, ValueError):
                    continue
        elif kind == 3 and array.ndim:
            array = array[: rng.integers(0, len(array) + 1)]
        elif kind == 4:
            array = array[..., None] if rng.integers(0, 2) else array.reshape(-1)
        elif kind == 5:
            array = np.ma.masked_array(array, rng.random(array.shape) < 0.05)
        elif kind == 6 and array.ndim > 1 and array.dtype.kind == "f":
            array = array[:, ::-1] + array[:, :1] * 0
        elif kind == 7 and array.dtype.kind in "fiu" and array.dtype != object:
            array = array + rng.choice((0, 1, 7, 10**6))
    return array


@pytest.mark.filterwarnings("ignore")
def test_values_give_the_right_number_or_one_line() -> None:
    rng = np.random.default_rng((SEED, 7))
    x, y = INPUTS.double().numpy(), LABELS.numpy()
    results = 0
    for _ in range(60 * TIMES):
        features, labels = (hostile_array(rng, a) if rng.random() < 0.6 else a for a in (x, y))
        weight = hostile_array(rng, x[:3]) if rng.random() < 0.3 else None
        found: list[Any] = []
        with np.errstate(all="ignore"):
            case = (features, labels, weight)
            try:
                message = refusal(kept(measure, found), features, labels, weight=weight)
            except Exception as error:
                raise AssertionError(case) from error
        if message is not None:
            continue
        results += 1
        json.dumps(found[0].to_dict(), allow_nan=False)
        assert not np.ma.getmaskarray(features).any(), case
        wanted = within_by_hand(features, labels)
        value = found[0]["normalized_within"]
        assert value is None or value == pytest.approx(wanted, rel=1e-3, abs=1e-6), case
    assert results >= 5 * TIMES


def within_by_hand(features: Any, labels: Any) -> float:
    rows = np.asarray(features, dtype=np.longdouble)
    rows = rows / max(np.abs(rows).max(), 1e-4000)
    classes = [rows[np.asarray(labels) == label] for label in np.unique(labels)]
    means = np.stack([rows.mean(0) for rows in classes])
    within = np.mean([((rows - rows.mean(0)) ** 2).sum(1).mean() for rows in classes])
    return float(within / (within + ((means - means.mean(0)) ** 2).sum(1).mean()))


@pytest.mark.filterwarnings("ignore")
def test_values_of_a_probe_give_an_accuracy_or_one_line() -> None:
    rng = np.random.default_rng((SEED, 8))
    x, y = INPUTS.double().numpy(), LABELS.numpy()
    for _ in range(20 * TIMES):
        samples = tuple(hostile_array(rng, a) if rng.random() < 0.5 else a for a in (x, y))
        for train, test in (((x, y), samples), (samples, samples)):
            found: list[Any] = []
            with np.errstate(all="ignore"):
                try:
                    message = refusal(kept(linear_probe, found), train, test, num_penalties=3)
                except Exception as error:
                    raise AssertionError((train, test)) from error
            if message is None:
                assert 0 <= found[0].accuracy <= 1
                assert found[0].classifier.weight.isfinite().all()


ARGUMENTS: tuple[Any, ...] = (
    None, -1, 0, 10**400, 1e400, float("nan"), "", "x" * 1000, "\x1b[31m", b"x", [], [None], {}, {1: 2}, object(), int,
    np.array(1), np.ma.masked, torch.tensor([]), torch.zeros(2, 3, device="meta"), range(3), (1, 2, 3), nn.Linear(1, 1),
    lambda *_: None,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_arguments_of_any_type_are_taken_or_refused_in_one_line() -> None:
    rng = np.random.default_rng((SEED, 9))
    net = model_named(["a"])
    batches = [(INPUTS, LABELS)]
    calls: tuple[Callable[[Any], object], ...] = (
        lambda value: measure(value, LABELS),
        lambda value: measure(INPUTS, value),
        lambda value: measure(INPUTS, LABELS, weight=value),
        lambda value: measure(INPUTS, LABELS, test=(value, LABELS)),
        lambda value: profile(value, batches),
        lambda value: profile(net, value),
        lambda value: profile(net, batches, layers=value),
        lambda value: profile(net, batches, class_counts=value),
        lambda value: linear_probe(value, value),
        lambda value: linear_probe((INPUTS, LABELS), (value, value), num_penalties=2),
        lambda value: open_data_set(str(value)),
    )
    for number in range(44 * TIMES):
        value = ARGUMENTS[rng.integers(0, len(ARGUMENTS))]
        try:
            refusal(lambda value=value, number=number: calls[number % len(calls)](value))
        except Exception as error:
            raise AssertionError((number % len(calls), ascii(repr(value))[:100])) from error


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_any_type_give_numbers_or_are_refused_in_one_line(option: str) -> None:
    net, batches = model_named(["a"]), [(INPUTS, LABELS)]
    for value in (
        *ARGUMENTS,
        True,
        0.5,
        1.5,
        -1.0,
        10**400,
        np.float64(0.3),
        np.int64(3),
        "token",
        [[]],
        {"a": 1},
    ):
        if option in ("split_batch", "progress") and callable(value):
            continue  # what a function raises is its own
        found: list[Any] = []
        try:
            refusal(kept(profile, found), net, batches, **{option: value})
        except Exception as error:
            raise AssertionError((option, ascii(repr(value))[:100])) from error
        for result in found:
            json.dumps(result.to_dict(), allow_nan=False)
            assert result.layers
