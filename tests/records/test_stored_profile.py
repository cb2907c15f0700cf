"""A profile there and back, alone and in its folder; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from collapselab import InputError, profile
from collapselab.probes import Profile
from collapselab.records.profile import ProfileMade, StoredProfile, read_profile, statistics_of, write_profile
from collapselab.storage import load_tensors, provenance


@pytest.fixture(scope="module")
def measured() -> Profile:
    """Unbalanced classes, a test split that lacks one, spectra, warnings of layers and of the whole."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 9 + [1] * 5 + [3] * 6 + [4])
    inputs = torch.randn(len(labels), 6, generator=generator) + labels[:, None]
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7))
    batches = [(inputs, labels)]
    return profile(model, batches, [(inputs[:14], labels[:14])], spectra=True, name="net")


def test_a_profile_comes_back_from_its_dictionary(measured: Profile) -> None:
    text = json.dumps(measured.to_dict(), allow_nan=False)
    again = Profile.from_dict(json.loads(text))
    assert again == measured
    assert again.to_dict() == measured.to_dict()
    assert again.classes == (0, 1, 3, 4)
    assert any(split.warnings for layer in measured.layers for split in layer.splits.values())
    layer = again.layers[-1]
    assert layer.splits["test"].counts.tolist() == [9, 5, 0, 0]
    assert layer.splits["test"].spectra == measured.layers[-1].splits["test"].spectra
    assert layer.splits["train"].class_means is None


@pytest.mark.parametrize("place", ["metrics", "counts", "spectra", "warnings"])
def test_profiles_that_differ_are_not_equal(measured: Profile, place: str) -> None:
    values = measured.to_dict()
    layer = values["layers"][0]
    if place == "metrics":
        layer["train"]["nc1"] += 1e-12
    elif place == "counts":
        layer["counts"]["train"][0] += 1
    elif place == "spectra":
        layer["spectra"]["train"]["total_eigenvalues"][0] += 1e-9
    else:
        layer["warnings"]["train"].append("more")
    assert Profile.from_dict(values) != measured


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": None}, "not a profile: TypeError"),
        ({"layers": [{"name": "a"}]}, "not a profile: KeyError 'depth'"),
        ({"schema": 9}, "a profile of schema 9, written by a newer version; upgrade collapselab"),
        ({"classes": None, "num_classes": None}, "not a profile: TypeError"),
    ],
)
def test_other_dictionaries_are_refused(measured: Profile, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Profile.from_dict(measured.to_dict() | change)


def test_a_folder_holds_profile_statistics_and_how_it_was_made(measured: Profile, tmp_path: Path) -> None:
    made = ProfileMade(**provenance(), options={"model": "mlp", "layers": None}, processes=2, seconds=1.5)
    write_profile(tmp_path, StoredProfile(measured, made))
    for path in (tmp_path, tmp_path / "profile.json"):
        stored = read_profile(path)
        assert stored.profile == measured
        assert stored.made == made
    tensors = load_tensors(tmp_path / "statistics.safetensors")
    expected = statistics_of(measured)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name].nan_to_num(), expected[name].nan_to_num()) for name in tensors)
    with pytest.raises(ValueError, match="has no class means"):
        statistics_of(stored.profile)


def test_what_is_no_profile_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"profile\.json: no such file; give the folder of an earlier profile"
    ):
        read_profile(tmp_path)
    path = tmp_path / "profile.json"
    for text, reason in (("{", "not a profile"), ("[]", "no dictionary"), ('{"schema": 2}', "KeyError")):
        path.write_text(text)
        with pytest.raises(InputError, match=reason) as caught:
            read_profile(tmp_path)
        assert str(path.parent) in str(caught.value)
        assert "\n" not in str(caught.value)
