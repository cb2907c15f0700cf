"""What figures read from rows: means over seeds, the end of each run, ticks, a place for zero."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from collapselab.report.experiment_data import at_the_end, log_ticks, over_seeds, place_of_zero, spans_decades


def test_over_seeds_leaves_out_what_is_undefined() -> None:
    rows = pd.DataFrame(
        {"seed": [0, 1, 2, 0, 1], "step": [1, 1, 1, 2, 2], "value": [1, 4, math.nan, math.nan, math.nan]}
    )
    table = over_seeds(rows, "step", "value", geometric=True)
    assert table["mean"].tolist() == [2.0, pytest.approx(math.nan, nan_ok=True)]
    assert table["seeds"].tolist() == [2, 0]
    assert over_seeds(rows, "step", "value", geometric=False)["mean"][0] == 2.5


def test_the_end_is_that_of_each_run() -> None:
    rows = pd.DataFrame(
        [
            {"job": job, "seed": seed, "step": step, "layer": "last", "depth": 1, "is_last": True}
            for job, steps in (("short", (0, 10)), ("long", (0, 10, 70)))
            for seed in range(3)
            for step in steps
        ]
    )
    assert at_the_end(rows)["step"].tolist() == [10, 10, 10, 70, 70, 70]


@pytest.mark.parametrize(
    ("values", "most", "texts"),
    [
        ([0, 1, 80_000], 7, ["0", "1", "10", "100", "1000", "10⁴"]),
        ([1, 80_000], 4, ["1", "100", "10⁴"]),
        ([12_500, 50_000], 7, ["15,000", "20,000", "30,000", "50,000"]),
        ([0.2, 0.9], 6, ["0.2", "0.3", "0.5", "0.7"]),
        ([1e-8, 1], 5, ["10⁻⁸", "10⁻⁶", "10⁻⁴", "0.01", "1"]),
        ([0.0], 5, ["0"]),
        ([0, 1], 7, ["0", "1"]),
        ([0, 2], 7, ["0", "2"]),
        ([math.nan], 5, []),
    ],
)
def test_log_ticks(values: list[float], most: int, texts: list[str]) -> None:
    assert log_ticks(values, most)[1] == texts


def test_a_place_for_zero_only_where_there_is_one() -> None:
    assert place_of_zero([1.0, 10.0, math.nan]) is None
    place = place_of_zero([0.0, 1.0, 1e9])
    assert place is not None
    assert 0 < place < 1
    assert not spans_decades([1, 9.9])
    assert spans_decades([1, 10, 0])
