"""Single classes: their variance, and the class they lie closest to, against sums over all pairs in numpy."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
import torch

from collapselab import measure
from collapselab.metrics import per_class
from collapselab.metrics.per_class import ClassDetails, class_details
from helpers import assert_close

_VALUES = ("variance", "relative_variance", "distance_from_centre", "closest_cdnv")


def _features(seed: int = 0) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Seven unbalanced classes; the fourth has not collapsed, the last two are close."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(7), [20, 25, 30, 35, 20, 22, 40])
    means = rng.standard_normal((7, 12))
    means[6] = means[5] + 0.1 * rng.standard_normal(12)
    scale = np.where(labels == 3, 2.0, 0.05)
    return means[labels] + scale[:, None] * rng.standard_normal((len(labels), 12)), labels


def _oracle(
    features: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.float64]]:
    rows = [features[labels == label] for label in np.unique(labels)]
    means = np.array([own.mean(0) for own in rows])
    variances = np.array([((own - own.mean(0)) ** 2).sum(1).mean() for own in rows])
    centred = means - means.mean(0)
    distance2 = ((means[:, None] - means[None]) ** 2).sum(2)
    np.fill_diagonal(distance2, np.inf)
    cdnv = (variances[:, None] + variances[None]) / (2 * distance2)
    np.fill_diagonal(cdnv, -1.0)
    return {
        "variance": variances,
        "relative_variance": variances / (centred**2).sum(1).mean(),
        "distance_from_centre": np.sqrt((centred**2).sum(1)),
        "closest": cdnv.argmax(1),
        "closest_cdnv": cdnv.max(1),
    }


def _details(features: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> ClassDetails:
    rows = [features[labels == label] for label in np.unique(labels)]
    variances = [((own - own.mean(0)) ** 2).sum(1).mean() for own in rows]
    return class_details(torch.tensor(np.array([own.mean(0) for own in rows])), torch.tensor(variances))


@pytest.mark.parametrize("rows", [1, 2, 3, 1024])
def test_values_are_those_of_all_pairs(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_class, "_ROWS", rows)
    found, truth = _details(*_features()), _oracle(*_features())
    for name in _VALUES:
        assert_close(
            getattr(found, name).numpy(),
            truth[name],
            rel=1e-11,
            why="distances 0.3 apart from expanded squares",
        )
    assert found.closest.tolist() == truth["closest"].tolist()


def test_the_class_that_has_not_collapsed_and_the_close_pair_are_found() -> None:
    features, labels = _features()
    table = measure(features, labels * 10).class_details["train"]
    assert table["label"].tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert table["num_samples"].tolist() == [20, 25, 30, 35, 20, 22, 40]
    assert table["relative_variance"].idxmax() == 3
    others = table.drop(index=3)
    assert (others.loc[others["distance_from_centre"] > 0, "closest"] % 10 == 0).all()
    without = measure(features[labels != 3], labels[labels != 3]).class_details["train"]
    closest = without.sort_values("closest_cdnv", ascending=False).iloc[0]
    assert {closest["label"], closest["closest"]} == {5, 6}


@pytest.mark.parametrize("split", ["train", "test"])
def test_weighted_mean_of_the_relative_variances_is_the_variance_of_hui(split: str) -> None:
    """Sum over classes of n_c/n v_c over the spread is E ‖h − μ_y‖² over the spread."""
    features, labels = _features()
    result = measure(features, labels, test=_features(1))
    table = result.class_details[split]
    mean = np.average(table["relative_variance"], weights=table["num_samples"])
    name = "train_variance" if split == "train" else "strong_test_variance"
    assert_close(mean, result[name], rel=1e-12, why="the same sum in another order")


def test_rotation_shift_and_scale_change_nothing_but_units() -> None:
    features, labels = _features()
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((12, 12)))[0]
    before, after = _details(features, labels), _details(7 * features @ rotation + 3, labels)
    for name in ("relative_variance", "closest_cdnv"):
        assert_close(
            getattr(after, name).numpy(), getattr(before, name).numpy(), rel=1e-10, why="rounded products"
        )
    assert after.closest.tolist() == before.closest.tolist()


def test_collapsed_classes_have_no_variance_and_their_nearest_neighbour() -> None:
    means = torch.tensor([[0.0, 0], [3, 0], [0, 1]], dtype=torch.float64)
    found = class_details(means, torch.zeros(3, dtype=torch.float64))
    assert found.closest_cdnv.tolist() == [0, 0, 0]
    assert found.closest.tolist() == [2, 0, 0]


def test_coincident_means_are_infinitely_close() -> None:
    features, labels = _features()
    features[labels == 1] = features[labels == 0][0]
    features[labels == 0] = features[labels == 0][0]
    result = measure(features, labels)
    table = result.class_details["train"]
    assert table["closest_cdnv"].iloc[:2].tolist() == [np.inf, np.inf]
    assert table["closest"].iloc[:2].tolist() == [1, 0]
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))["class_details"]["train"]
    assert stored["closest_cdnv"][:2] == [None, None]


def test_a_class_without_samples_is_nobodys_neighbour() -> None:
    means = torch.tensor([[0.0, 0], [torch.nan, torch.nan], [0, 1]], dtype=torch.float64)
    found = class_details(means, torch.tensor([1.0, torch.nan, 1.0], dtype=torch.float64))
    assert found.closest.tolist() == [2, -1, 0]
    assert found.variance[1].isnan()
    assert found.closest_cdnv[1].isnan()
    table = found.to_frame([4, 5, 6], torch.tensor([3, 0, 3]))
    assert table["label"].tolist() == [4, 6]
    assert table["closest"].tolist() == [6, 4]
