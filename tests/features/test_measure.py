"""`measure`: the right passes and no more, train against test, what it accepts."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

from collapselab import METRICS, InputError, measure
from collapselab.features import stream as features_stream
from collapselab.metrics import names_of
from collapselab.metrics.inputs import MetricInputs
from collapselab.passes import plan, reading
from collapselab.passes import split as passes_split
from collapselab.statistics import ClassStats
from helpers import assert_close, uneven_labels
from oracles import Oracle, nearest

# The package's attribute of this name is the function.


def draw(counts: list[int], dim: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = uneven_labels(rng, counts)
    return np.random.default_rng(7).standard_normal((len(counts), dim))[labels] + rng.standard_normal(
        (len(labels), dim)
    ), labels


FEATURES, LABELS = draw([20, 31, 25])
WEIGHT = np.random.default_rng(1).standard_normal((3, 5))


# ---------------------------------------------------------------- which metrics


def test_all_metrics_by_default() -> None:
    result = measure(FEATURES, LABELS, weight=WEIGHT, test=(FEATURES, LABELS))
    assert {split: tuple(values) for split, values in result.splits.items()} == {
        "train": names_of("train"),
        "test": names_of("test"),
    }


def test_no_value_is_missing_when_everything_is_given() -> None:
    result = measure(FEATURES, LABELS, weight=WEIGHT, test=(FEATURES, LABELS))
    assert [v for values in result.splits.values() for v in values.values() if v is None] == []


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_alone_is_the_same_as_among_all(metric: Any) -> None:
    arguments: dict[str, Any] = {"weight": WEIGHT, "test": (FEATURES[::2], LABELS[::2])}
    alone = measure(FEATURES, LABELS, metrics=[metric.name], **arguments)
    together = measure(FEATURES, LABELS, **arguments)
    for split in metric.splits:
        assert alone.splits[split] == {metric.name: together.splits[split][metric.name]}


def test_one_name_is_no_list_of_letters() -> None:
    assert measure(FEATURES, LABELS, metrics="vci").splits["train"].keys() == {"vci"}


def test_an_unknown_metric_lists_near_matches() -> None:
    with pytest.raises(InputError, match="unknown metric 'fuzzines'; did you mean 'fuzziness'"):
        measure(FEATURES, LABELS, metrics=["fuzzines"])


# ---------------------------------------------------------------- at only their cost


@pytest.fixture
def scatters(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The scatter kept by every ClassStats that `measure` makes."""
    made: list[str] = []

    class Spy(ClassStats):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self.scatter)

    monkeypatch.setattr(plan, "ClassStats", Spy)
    return made


_MATRIX = {"covariance", "class covariances", "top eigenvalue"}


@pytest.mark.parametrize("metric", [m for m in METRICS if not m.needs & _MATRIX], ids=lambda m: m.name)
def test_no_covariance_where_none_is_needed(metric: Any, scatters: list[str]) -> None:
    measure(FEATURES, LABELS, weight=WEIGHT, test=(FEATURES, LABELS), metrics=[metric.name])
    assert set(scatters) == {"trace"}


def test_the_spy_sees_a_covariance(scatters: list[str]) -> None:
    measure(FEATURES, LABELS, metrics=["vci"])
    assert scatters == ["full"]


def test_a_split_that_nothing_is_asked_of_is_not_read(scatters: list[str]) -> None:
    result = measure(FEATURES, LABELS, test=(FEATURES, LABELS), metrics=["strong_test_variance"])
    assert scatters == ["trace"]
    assert result.splits["train"] == {}


@pytest.mark.parametrize(
    ("module", "function", "needed_by"),
    [
        (reading, "nearest_centre_rule", {"ncc_accuracy", "ncc_agreement", "ncc_mismatch"}),
        (features_stream, "network_rule", {"ncc_agreement", "ncc_mismatch"}),
        (
            passes_split,
            "fit_kmeans",
            {"weak_test_variance", "weak_test_variance_trimmed", "smallest_cluster"},
        ),
        (reading, "top_eigenvalues_of_rows", {"stable_rank_per_class", "stable_rank_published"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pass_is_made_only_for_what_needs_it(
    module: ModuleType, function: str, needed_by: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    original = getattr(module, function)

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append(function)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, function, spy)
    rest = [metric.name for metric in METRICS if metric.name not in needed_by]
    measure(FEATURES, LABELS, weight=WEIGHT, test=(FEATURES, LABELS), metrics=rest)
    assert calls == []
    for name in needed_by:
        measure(FEATURES, LABELS, weight=WEIGHT, test=(FEATURES, LABELS), metrics=[name])
        assert calls
        calls.clear()


@pytest.mark.parametrize(
    ("attribute", "needed_by"),
    [
        ("pairs", {"cdnv", "equiangularity", "max_angle_gap", "mean_cosine_gap", "etf_distance"}),
        ("scaled_total", {"vci", "vci_adjusted"}),
        ("largest_within_eigenvalue", {"stable_rank", "stable_rank_low", "stable_rank_high"}),
        ("total_eigenvalues", {"components_90", "components_95", "components_99"}),
        ("between_svd", {"vci", "vci_adjusted", "fuzziness", "nc1", "alignment", "alignment_random"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_factorisation_is_made_only_for_what_needs_it(
    attribute: str, needed_by: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(inputs: MetricInputs) -> None:
        raise AssertionError(f"{attribute} was computed")

    monkeypatch.setattr(MetricInputs, attribute, property(refuse))
    rest = [metric.name for metric in METRICS if metric.name not in needed_by]
    measure(FEATURES, LABELS, weight=WEIGHT, metrics=rest)
    for name in needed_by:
        with pytest.raises(AssertionError, match=attribute):
            measure(FEATURES, LABELS, weight=WEIGHT, metrics=[name])


# ---------------------------------------------------------------- test data


def test_test_data_have_their_own_class_means() -> None:
    rows, labels = draw([9, 14, 11], seed=3)
    result = measure(FEATURES, LABELS, test=(rows, labels))
    oracle = Oracle(rows, labels)
    for name in ("vci", "cdnv", "etf_distance", "strong_test_variance", "within_trace"):
        assert_close(result.splits["test"][name], getattr(oracle, name)(), rel=1e-10, why="float64")


def test_nearest_centres_of_test_data_are_those_of_train() -> None:
    rows, labels = draw([9, 14, 11], seed=3)
    rows += 0.8  # so that the test set's own means would decide otherwise
    value = measure(FEATURES, LABELS, test=(rows, labels), metrics=["ncc_accuracy"]).splits["test"][
        "ncc_accuracy"
    ]
    assert value == np.mean(nearest(rows, Oracle(FEATURES, LABELS).means) == labels)
    assert value != np.mean(nearest(rows, Oracle(rows, labels).means) == labels)


def test_weight_and_bias_of_train_decide_on_test_data() -> None:
    rows, labels = draw([9, 14, 11], seed=3)
    bias = np.array([0.0, 3.0, -1.0])
    result = measure(
        FEATURES, LABELS, weight=WEIGHT, bias=bias, test=(rows, labels), metrics=["ncc_agreement"]
    )
    decided = (rows @ WEIGHT.T + bias).argmax(axis=1)
    found = nearest(rows, Oracle(FEATURES, LABELS).means)
    assert result.splits["test"]["ncc_agreement"] == np.mean(found == decided)


def test_a_class_the_test_data_lack_is_a_warning() -> None:
    rows, labels = draw([9, 14, 11], seed=3)
    keep = labels != 1
    result = measure(FEATURES, LABELS, test=(rows[keep], labels[keep]), metrics=["cdnv", "ncc_accuracy"])
    assert result.warnings == ("test: 1 of the training classes have no samples here, the first is 1",)
    assert_close(
        result.splits["test"]["cdnv"], Oracle(rows[keep], labels[keep]).cdnv(), rel=1e-10, why="float64"
    )
    expected = np.mean(nearest(rows[keep], Oracle(FEATURES, LABELS).means) == labels[keep])
    assert result.splits["test"]["ncc_accuracy"] == expected


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ((FEATURES, np.where(LABELS == 2, 9, LABELS)), "25 samples have labels that no training sample has"),
        ((FEATURES[:, :4], LABELS), "4 features per sample, but train has 5"),
        ((FEATURES[:3], np.zeros(3, dtype=int)), "at least two classes"),
        ((FEATURES, LABELS, LABELS, LABELS), "test: give"),
        ((FEATURES,), "test: give"),
        ({"features": FEATURES}, "test: give"),
        ({"features": FEATURES, "labels": LABELS, "weight": WEIGHT}, "weight and bias are those of train"),
    ],
    ids=["unknown label", "other dim", "one class", "four arrays", "one array", "no labels", "a weight"],
)
def test_test_data_that_do_not_fit(test: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        measure(FEATURES, LABELS, test=test)


def test_test_data_as_a_mapping() -> None:
    rows, labels = draw([9, 14, 11], seed=3)
    as_pair = measure(FEATURES, LABELS, test=(rows, labels, labels))
    assert (
        measure(FEATURES, LABELS, test={"features": rows, "labels": labels, "predictions": labels}) == as_pair
    )


# ---------------------------------------------------------------- labels, predictions, dtypes


def test_labels_that_are_not_contiguous() -> None:
    names = np.array([3, 40, 1000])
    rows, labels = draw([9, 14, 11], seed=3)
    plain = measure(FEATURES, LABELS, weight=WEIGHT, predictions=LABELS, test=(rows, labels))
    named = measure(
        FEATURES, names[LABELS], weight=WEIGHT, predictions=names[LABELS], test=(rows, names[labels])
    )
    assert named == plain


def test_predictions_come_before_the_weight() -> None:
    predictions = (LABELS + 1) % 3
    value = measure(FEATURES, LABELS, weight=WEIGHT, predictions=predictions)["ncc_agreement"]
    assert value == np.mean(nearest(FEATURES, Oracle(FEATURES, LABELS).means) == predictions)


def test_no_decisions_no_agreement() -> None:
    result = measure(FEATURES, LABELS, metrics=["ncc_agreement", "ncc_mismatch", "ncc_accuracy"])
    assert result["ncc_agreement"] is None
    assert result["ncc_mismatch"] is None
    assert result["ncc_accuracy"] is not None


def test_predictions_are_labels() -> None:
    with pytest.raises(InputError, match="1 predictions are not among the training labels, the first is 7"):
        measure(FEATURES, LABELS, predictions=np.r_[7, LABELS[1:]])


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "int64", "uint16", "bool", ">f4", "torch.bfloat16"]
)
def test_features_of_any_dtype(dtype: str) -> None:
    if dtype.startswith("torch."):
        features: Any = torch.as_tensor(FEATURES).to(getattr(torch, dtype.removeprefix("torch.")))
        exact = features.double().numpy()
    else:
        features = np.abs(5 * FEATURES.round() if dtype == "bool" else 5 * FEATURES).astype(dtype)
        exact = features.astype(np.float64)
    value = measure(features, LABELS, metrics=["squared_distance"])["squared_distance"]
    assert_close(value, Oracle(exact, LABELS).squared_distance(), rel=1e-6, why="at least float32 sums")


@pytest.mark.parametrize(
    "convert", [list, torch.as_tensor, lambda x: np.asarray(x, dtype=float)], ids=["list", "tensor", "float"]
)
def test_labels_of_any_kind(convert: Any) -> None:
    assert measure(FEATURES, convert(LABELS), metrics=["vci"]) == measure(FEATURES, LABELS, metrics=["vci"])


def test_features_that_require_a_gradient() -> None:
    features = torch.as_tensor(FEATURES).requires_grad_()
    assert measure(features, LABELS, metrics=["vci", "ncc_accuracy"]).warnings == ()


def test_nothing_given_is_written_to() -> None:
    features, labels, weight = FEATURES.copy(), LABELS.copy(), WEIGHT.copy()
    measure(features, labels, weight=weight, predictions=labels, test=(features, labels))
    assert np.array_equal(features, FEATURES)
    assert np.array_equal(labels, LABELS)
    assert np.array_equal(weight, WEIGHT)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rcond": 1.0}, "rcond=1.0: give a relative"),
        ({"rcond": -0.1}, "rcond=-0.1: give a relative"),
        ({"weight": WEIGHT.T}, "weight has shape"),
        ({"bias": np.zeros(3)}, "bias is given without weight"),
        ({"labels": np.zeros(76, dtype=int)}, "at least two classes"),
    ],
    ids=["rcond of one", "negative rcond", "weight", "bias", "one class"],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        measure(**(dict[str, Any](features=FEATURES, labels=LABELS) | arguments))


def test_an_unknown_weighting() -> None:
    # Run-time checks of annotations, on in these tests only, may speak first.
    with pytest.raises((InputError, jaxtyping.TypeCheckError), match="weighting"):
        measure(FEATURES, LABELS, weighting="uniform")  # pyright: ignore[reportArgumentType]
