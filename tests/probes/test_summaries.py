"""What the layers of a profile show together: the law of separation, and where VCI and its adjusted form part."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import linregress
from torch import nn

from collapselab.probes import Profile, profile
from collapselab.probes.summaries import fit_law_of_separation, parted_vci
from helpers import assert_close


def measured(depth: int, num_samples: int, **options: Any) -> Profile:
    """A network of equal layers on noise with three labels."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    labels = torch.arange(num_samples) % 3
    inputs = torch.randn(num_samples, 12, generator=generator) + labels[:, None]
    layers = [part for _ in range(depth - 1) for part in (nn.Linear(12, 12), nn.Tanh())]
    half = num_samples // 2
    train, test = [(inputs[:half], labels[:half])], [(inputs[half:], labels[half:])]
    return profile(nn.Sequential(*layers, nn.Linear(12, 3)), train, test, **options)


# ---------------------------------------------------------------- law of separation


@given(
    rho=st.floats(0.01, 2),
    initial=st.floats(1e-3, 1e3),
    depths=st.sets(st.integers(0, 60), min_size=3, max_size=9),
)
def test_an_exponential_decay_is_recovered(rho: float, initial: float, depths: set[int]) -> None:
    law = fit_law_of_separation({depth: initial * rho**depth for depth in depths})
    assert_close(law.rho, rho, rel=1e-9, why="float64 logarithms up to 300")
    assert_close(law.initial, initial, rel=1e-9, why="the same")
    assert law.num_layers == len(depths)
    if abs(math.log(rho)) > 1e-6:
        assert_close(law.r_squared, 1.0, rel=1e-8, why="the same, over a variance of at least 1e-12")
    assert_close(law.fitted(7), initial * rho**7, rel=1e-9, why="the same")


def test_the_fit_is_that_of_least_squares() -> None:
    depths = np.array([0, 1, 2, 4, 5])
    logs = np.array([2.0, 1.4, 1.1, -0.5, -0.4])
    wanted: Any = linregress(depths, logs)
    law = fit_law_of_separation(dict(zip(depths.tolist(), np.exp(logs).tolist(), strict=True)))
    assert_close(
        [law.rho, law.initial, law.r_squared],
        [np.exp(wanted.slope), np.exp(wanted.intercept), wanted.rvalue**2],
        rel=1e-13,
        why="float64",
    )
    assert str(law) == f"ρ = {law.rho:.4g} per layer, R² = {law.r_squared:.3g} (5 layers)"


@given(factor=st.floats(1e-6, 1e6))
def test_neither_rho_nor_its_fit_depends_on_the_unit(factor: float) -> None:
    values = {0: 5.0, 1: 3.0, 2: 2.5, 3: 0.4}
    law = fit_law_of_separation(values)
    scaled = fit_law_of_separation({depth: factor * value for depth, value in values.items()})
    assert_close([scaled.rho, scaled.r_squared], [law.rho, law.r_squared], rel=1e-12, why="float64")


def test_layers_without_a_logarithm_are_left_out() -> None:
    values: dict[int, float | None] = {0: 8.0, 1: None, 2: 2.0, 3: 1.0, 4: 0.0}
    law = fit_law_of_separation(values)
    assert law.num_layers == 3
    assert_close(law.rho, 0.5, rel=1e-12, why="float64")


def test_two_layers_have_no_law_and_equal_layers_no_r_squared() -> None:
    few = fit_law_of_separation({0: 2.0, 1: 1.0, 2: None, 3: 0.0})
    assert (few.rho, few.initial, few.r_squared, few.num_layers) == (None, None, None, 2)
    assert str(few) == "undefined: 2 of 4 layers have a positive fuzziness, and a fit needs 3"
    assert math.isnan(few.fitted(0))
    equal = fit_law_of_separation({0: 0.3, 1: 0.3, 2: 0.3})
    assert (equal.rho, equal.r_squared) == (1.0, None)
    assert "R² undefined" in str(equal)
    assert "the same at all" in str(equal)


def test_a_profile_fits_each_split() -> None:
    found = measured(5, 300)
    for split in ("train", "test"):
        fuzziness = [layer.splits[split].metrics["fuzziness"] for layer in found.layers]
        law = found.law_of_separation(split)
        wanted: Any = linregress(range(5), np.log(np.array(fuzziness, dtype=float)))
        assert_close(law.rho, np.exp(wanted.slope), rel=1e-12, why="float64")
        assert found.to_dict()["law_of_separation"][split]["rho"] == law.rho
    assert str(found.law_of_separation()) in found._repr_html_()
    again = Profile.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again.law_of_separation("test") == found.law_of_separation("test")


def test_a_profile_without_fuzziness_says_why_there_is_no_law() -> None:
    found = measured(4, 60, metrics=["normalized_within"])
    assert found.law_of_separation().reason == "0 of 4 layers have a positive fuzziness, and a fit needs 3"
    one_split = measured(4, 60, layers=["0"])
    assert one_split.law_of_separation().reason.startswith("1 of 1 layers")


# ---------------------------------------------------------------- VCI and its adjusted form


@pytest.mark.parametrize(
    ("adjusted", "is_parted"), [(0.549, False), (0.551, True), (0.449, True), (None, False)]
)
def test_where_the_two_part(adjusted: float | None, is_parted: bool) -> None:
    found = parted_vci({"test a": {"vci": 0.5, "vci_adjusted": adjusted}, "test b": {"cdnv": 1.0}})
    assert [place for place, _ in found] == (["test a"] if is_parted else [])


def test_few_samples_are_a_warning_and_many_are_none() -> None:
    few, many = measured(3, 80), measured(3, 1500)
    (warning,) = few.vci_warnings()
    assert "vci and vci_adjusted differ by more than 0.05" in warning
    assert "compare splits, layers and networks by vci_adjusted" in few._repr_html_()
    assert many.vci_warnings() == []


# ---------------------------------------------------------------- as text


def test_print_is_the_table_and_repr_is_short() -> None:
    found = measured(3, 80, metrics=["normalized_within", "stable_rank"])
    text = str(found)
    assert text.startswith("Sequential: 40 train and 40 test samples, 3 classes, balanced weighting\n")
    assert "First collapsed layer on train data: none" in text
    assert repr(found) == "Profile(Sequential: 3 layers, 3 classes, train and test, not collapsed)"
    assert repr(found["2"]) == "LayerProfile('2', 12 features, train and test)"


def test_a_cause_has_one_warning_however_many_layers_it_concerns() -> None:
    found = measured(6, 21)  # 10 train and 11 test samples: the ranks differ
    for cause in ("Such eigenvalues are zero", "vci is then 0", "vci_adjusted is undefined"):
        in_layers = [
            text
            for layer in found.layers
            for split in layer.splits.values()
            for text in split.warnings
            if cause in text
        ]
        assert len(in_layers) == 12
        (warning,) = [text for text in found.warnings if cause in text]
        assert "train 0" in warning
        assert "test 0" in warning
