"""The one list of options: names, defaults, checks, what is recorded of them, and where they are documented."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import collapselab
from collapselab import InputError
from collapselab.integrations import Monitor
from collapselab.probes import ProfileOptions
from collapselab.probes.options import OPTIONS, complete_options, plain_options
from collapselab.probes.reduce import Reduction


def test_defaults_pass_their_own_checks() -> None:
    complete = complete_options({})
    assert dict(complete) == {name: option.default for name, option in OPTIONS.items()}
    assert list(OPTIONS) == list(ProfileOptions.__annotations__)


def test_values_are_normalised_so_that_they_can_be_used_again() -> None:
    given: Any = {"metrics": iter(["vci", "cdnv"]), "class_counts": [3, 4]}
    complete = complete_options(given)
    assert complete.get("metrics") == ("vci", "cdnv")
    assert torch.equal(torch.as_tensor(complete.get("class_counts")), torch.tensor([3, 4]))
    assert complete_options({"metrics": "vci"}).get("metrics") == ("vci",)
    again = complete_options(complete)
    assert plain_options(again) == plain_options(complete)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reduc": "gap"}, "unknown option 'reduc'; did you mean 'reduce'"),
        ({"test": []}, "unknown option 'test'; did you mean 'test_loader'?"),
        ({"epsilon": 0.0}, "epsilon=0.0: give a share"),
        ({"epsilon": float("nan")}, "epsilon=nan: give a share"),
        ({"reduce": "max"}, "unknown reduction 'max'"),
        ({"metrics": ["vcl"]}, "unknown metric 'vcl'; did you mean 'vci'"),
        ({"class_counts": [3]}, "class_counts: give one whole number per label"),
        (
            {"class_counts": {7: 3}},
            "class_counts: give the whole number of samples of each label, of at least two",
        ),
        ({"class_counts": {7: 3, 9: -1}}, "class_counts: give the whole number of samples"),
        ({"class_counts": {7: 3, 9: 1.5}}, "class_counts: give the whole number of samples"),
    ],
    ids=str,
)
def test_mistakes_are_found_without_a_network(wrong: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        complete_options(wrong)


def test_what_is_recorded_decides_the_numbers_and_is_json() -> None:
    def choose(name: str, module: nn.Module) -> bool:
        return True

    options: ProfileOptions = {
        "layers": choose,
        "reduce": Reduction("token", 3),
        "class_counts": torch.tensor([3, 4]),
        "metrics": ("vci",),
        "progress": lambda *_: None,
    }
    plain = plain_options(options)
    assert json.loads(json.dumps(plain)) == plain
    assert "progress" not in plain
    assert plain["layers"].endswith("choose")
    assert (plain["reduce"], plain["class_counts"], plain["metrics"]) == ("token:3", [3, 4], ["vci"])
    assert (plain["scatter"], plain["seed"]) == ("auto", 0)


@pytest.mark.parametrize("documented", [collapselab.profile, Monitor])
def test_help_lists_every_option(documented: Any) -> None:
    listed = documented.__doc__.partition("Options:")[2]
    for name, option in OPTIONS.items():
        assert f"        {name}: {option.text[:20]}" in listed
