"""Measuring a split: which passes are made, what they are compared with, what is released."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from streams import ListStream, draw, plan
from torch import Tensor

from collapselab import measure
from collapselab.errors import InputError
from collapselab.metrics import select
from collapselab.passes import Point, PointWeight, SplitPlan, TrainReference, measure_split, split
from collapselab.passes.reading import PassFindings, PassRequest, run_pass
from collapselab.passes.stream import EndBatch, FeatureStream, ProgressCallback, ReceiveRows
from collapselab.statistics import ClassStats

FEATURES, LABELS = draw()
ALL = ["normalized_within", "vci", "stable_rank", "ncc_accuracy", "ncc_agreement", "stable_rank_per_class"]


@pytest.mark.parametrize(
    ("metrics", "scatter", "times"),
    [
        (["normalized_within", "cdnv"], "trace", 1),
        (["vci"], "full", 1),
        (["ncc_accuracy"], "trace", 2),
        (["stable_rank"], "sketch", 2),
        (["normalized_within"], "sketch", 1),
    ],
)
def test_a_second_pass_is_made_only_for_what_needs_it(metrics: list[str], scatter: str, times: int) -> None:
    stream = ListStream(FEATURES, LABELS)
    found = measure_split(stream, plan(metrics, scatter=scatter))  # pyright: ignore[reportArgumentType] from a table
    assert stream.times_read == times
    assert list(found.metrics["only"]) == metrics
    assert None not in found.metrics["only"].values()


def test_it_is_what_measure_gives() -> None:
    wanted = measure(FEATURES, LABELS, predictions=LABELS, metrics=ALL).splits["train"]
    found = measure_split(ListStream(FEATURES, LABELS, decided=LABELS), plan(ALL, scatter="per_class"))
    for name, value in found.metrics["only"].items():
        assert value == pytest.approx(wanted[name], rel=1e-9), name
    assert found.classes.tolist() == [0, 1, 2]
    assert found.counts.tolist() == [12, 9, 14, 0]


def test_test_data_are_compared_with_the_train_means_in_their_first_pass() -> None:
    train = measure_split(ListStream(FEATURES, LABELS), plan([], scatter="trace"))
    rows, labels = draw((5, 0, 7), seed=1)
    stream = ListStream(rows, labels)
    found = measure_split(stream, plan(["ncc_accuracy"], scatter="trace"), train.reference)
    assert stream.times_read == 1
    means = torch.stack([FEATURES[c == LABELS].mean(0) for c in range(3)])
    correct = torch.cdist(rows, means).argmin(1) == labels
    assert found.metrics["only"]["ncc_accuracy"] == pytest.approx(float(correct.double().mean()))
    assert found.classes.tolist() == [0, 2]
    assert found.warnings == ("1 of the training classes have no samples here, the first is 5",)


def test_weak_variance_takes_as_many_centres_as_there_are_training_classes() -> None:
    rows, labels = draw((20, 20, 0), seed=1)
    reference = TrainReference(torch.arange(3), {})
    found = measure_split(
        ListStream(rows, labels), plan(["weak_test_variance"], scatter="trace", split="test"), reference
    )
    wanted = measure(*draw(), test=(rows, labels), metrics=["weak_test_variance"])
    value = wanted.splits["test"]["weak_test_variance"]
    assert found.metrics["only"]["weak_test_variance"] == pytest.approx(value, rel=1e-12)


def test_what_a_second_pass_would_find_is_missing_where_there_is_none() -> None:
    stream = ListStream(FEATURES, LABELS)
    stream.can_be_read_again = False
    found = measure_split(stream, plan(["vci", "ncc_accuracy"]))
    assert found.metrics["only"]["vci"] is not None
    assert found.metrics["only"]["ncc_accuracy"] is None
    assert found.warnings == (
        "nearest class means need a second pass, but an iterator can be read once; give a loader",
    )


def test_unbalanced_pooled_scatter_without_declared_counts_is_weighted_by_sample() -> None:
    found = measure_split(ListStream(FEATURES, LABELS, declared=False), plan(["within_trace"]))
    assert found.weighting == "sample"
    assert "class_counts=" in found.warnings[0]
    known = measure_split(ListStream(FEATURES, LABELS), plan(["within_trace"]))
    assert known.weighting == "balanced"
    assert known.metrics != found.metrics


def test_other_counts_than_declared_are_refused() -> None:
    stream = ListStream(FEATURES, LABELS)
    stream.declared_counts = torch.tensor([12, 10, 14, 0])
    with pytest.raises(InputError, match="class 5 was declared with 10 samples but 9 came"):
        measure_split(stream, plan(["vci"]))


def test_labels_are_checked_against_the_train_split() -> None:
    reference = TrainReference(torch.tensor([0, 1]), {})
    with pytest.raises(
        InputError, match="14 samples have labels that no training sample has, the first is 8"
    ):
        measure_split(ListStream(FEATURES, LABELS), plan(["vci"]), reference)


def coarse_rows() -> Tensor:
    """Float64 features whose `vci` float32 products are too coarse for: eigenvalues fall by eight decades."""
    generator = torch.Generator().manual_seed(3)
    scale = torch.logspace(0, -4, 6, dtype=torch.float64)
    noise = torch.randn(35, 6, generator=generator, dtype=torch.float64) * scale
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    return (0.01 * FEATURES * scale + noise) @ turn


def test_float64_takes_the_place_of_float32_that_is_too_coarse() -> None:
    rows = coarse_rows()
    stream, exact = ListStream(rows.float(), LABELS), ListStream(rows.float().double(), LABELS)
    found, wanted = (measure_split(one, plan(["vci"])) for one in (stream, exact))
    assert (stream.times_read, exact.times_read) == (2, 1)
    assert found.metrics["only"]["vci"] == pytest.approx(wanted.metrics["only"]["vci"], rel=1e-9)
    assert found.point_warnings == wanted.point_warnings
    # Where products of a dtype are asked for, they stay.
    stream = ListStream(rows.float(), LABELS)
    kept = measure_split(stream, replace(plan(["vci"]), product_dtype=torch.float32))
    assert stream.times_read == 1
    assert any("accuracy of only about" in text for text in kept.point_warnings["only"])


@pytest.mark.usefixtures("fast_collection")
def test_matrices_are_released_before_the_second_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []
    made: list[weakref.ref[torch.Tensor]] = []

    class Watching(ListStream):
        def read(self, receive: object, end_batch: object) -> None:
            gc.collect()
            alive.append(sum(ref() is not None for ref in made))
            super().read(receive, end_batch)  # pyright: ignore[reportArgumentType] handed on

    allocate = ClassStats._allocate

    def watched(self: ClassStats, features: torch.Tensor) -> object:
        moments = allocate(self, features)
        if self._within is not None and not made:
            made.append(weakref.ref(self._within.total))
        return moments

    monkeypatch.setattr(ClassStats, "_allocate", watched)
    measure_split(Watching(FEATURES, LABELS), plan(["vci", "ncc_accuracy"]))
    assert len(made) == 1
    assert alive == [0, 0]


class WideStream(ListStream):
    """The same float32 rows at many sources, as layers of a network read them."""

    def read(self, receive: ReceiveRows, end_batch: EndBatch) -> None:
        self.times_read += 1
        for source in SOURCES:
            receive(source, self.features, self.labels)
        end_batch(self.labels, lambda: None)


SOURCES = [f"layer.{number}" for number in range(12)]


def test_coarse_products_are_summed_again_in_the_order_of_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes merge source after source: one that took them in another order would wait for ever."""
    points = tuple(Point(name, name, 6, channels_first=True, is_classifier=False) for name in SOURCES)
    weights = {name: PointWeight(None) for name in SOURCES}
    wide = SplitPlan(points, weights, select(["vci"], "train"), dict.fromkeys(SOURCES, "full"), "balanced")
    requests = []

    def noted(stream: FeatureStream, request: PassRequest, progress: ProgressCallback) -> PassFindings:
        requests.append(list(request.statistics))
        return run_pass(stream, request, progress)

    monkeypatch.setattr(split, "run_pass", noted)
    measure_split(WideStream(coarse_rows().float(), LABELS), wide)
    assert requests == [SOURCES, SOURCES]
