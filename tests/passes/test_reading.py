"""One pass finds what its request names, and nothing else."""

from __future__ import annotations

import pytest
import torch
from streams import ListStream, draw

from collapselab.errors import InputError
from collapselab.metrics.kmeans import fit_kmeans
from collapselab.passes import PassRequest, reading, run_pass
from collapselab.passes.stream import EndBatch, ReceiveRows, no_progress
from collapselab.statistics import ClassStats, SketchRefinement

FEATURES, LABELS = draw()
MEANS = torch.stack([FEATURES[c == LABELS].mean(0) for c in range(3)])
CLASSES = torch.arange(3)
NEAREST = torch.cdist(FEATURES, MEANS).argmin(1)


def test_an_empty_request_reads_nothing_and_finds_nothing() -> None:
    stream, request = ListStream(FEATURES, LABELS), PassRequest()
    found = run_pass(stream, request, no_progress)
    assert request.is_empty
    assert stream.times_read == 0
    assert found == reading.PassFindings(0, {}, {}, {}, {}, {}, {})


def test_a_request_is_not_changed_by_its_pass() -> None:
    made: list[ClassStats] = []

    def create() -> ClassStats:
        made.append(ClassStats(4, 6))
        return made[-1]

    request = PassRequest(statistics={"only": create})
    first, second = (run_pass(ListStream(FEATURES, LABELS), request, no_progress) for _ in range(2))
    assert len(made) == 2
    assert first.statistics["only"] is not second.statistics["only"]
    for found in (first, second):
        assert found.num_samples == 35
        assert found.statistics["only"].counts.tolist() == [12, 9, 14, 0]


def test_nearest_centres_are_compared_with_labels_and_with_decisions() -> None:
    decided = (LABELS + (torch.arange(35) % 4 == 0)) % 3
    stream = ListStream(FEATURES, LABELS, decided=decided)
    request = PassRequest(train_means={"only": MEANS}, train_classes=CLASSES, decisions=True)
    counts = run_pass(stream, request, no_progress).nearest["only"]
    assert counts.num_samples == 35
    assert counts.num_correct == int((NEAREST == LABELS).sum())
    assert counts.num_agreeing == int((decided == NEAREST).sum())


def test_a_decision_for_no_training_class_agrees_with_nothing() -> None:
    outside = NEAREST == 2
    decided = torch.where(outside, 7, NEAREST)  # beyond the label space
    stream = ListStream(FEATURES, LABELS, decided=decided)
    stream.label_values = stream.label_values[:3]
    request = PassRequest(train_means={"only": MEANS}, train_classes=CLASSES, decisions=True)
    found = run_pass(stream, request, no_progress)
    assert found.nearest["only"].num_agreeing == 35 - int(outside.sum())


@pytest.mark.parametrize("wanted", [False, True])
def test_decisions_that_are_not_asked_for_are_not_made(wanted: bool) -> None:
    class Deciding(ListStream):
        decisions = 0

        def read(self, receive: ReceiveRows, end_batch: EndBatch) -> None:
            def decide() -> torch.Tensor:
                self.decisions += 1
                return LABELS

            receive("only", FEATURES, LABELS)
            end_batch(LABELS, decide)

    stream = Deciding(FEATURES, LABELS)
    run_pass(
        stream, PassRequest(train_means={"only": MEANS}, train_classes=CLASSES, decisions=wanted), no_progress
    )
    assert stream.decisions == wanted


def test_refinements_use_the_classes_of_the_split() -> None:
    """Labels 1 and 3 are classes 0 and 1 of this split."""
    labels = torch.tensor([0, 1, 3])[LABELS]
    here = labels > 0
    rows, labels, own = FEATURES[here], labels[here], torch.tensor([1, 3])
    means = MEANS[1:]
    weights = torch.tensor([0.25, 0.5], dtype=torch.float64)
    vectors = torch.eye(6, 2, dtype=torch.float64)
    request = PassRequest(
        refinements={"only": lambda: SketchRefinement(vectors, means, weights)}, own_classes=own
    )
    total = run_pass(ListStream(rows, labels), request, no_progress).refinements["only"].total
    place = (labels == 3).long()
    deviations = rows - means[place]
    expected = (deviations * weights[place][:, None]).T @ (deviations @ vectors)
    assert torch.allclose(total, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("limit", [50_000, 20])
def test_kmeans_gets_all_rows_or_a_sample_and_distances_are_over_all(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collapselab.metrics.kmeans.MAX_ROWS", limit)
    found = run_pass(ListStream(FEATURES, LABELS), PassRequest(kmeans_rows=("only",)), no_progress)
    rows = found.kmeans_rows["only"]
    assert len(rows) == min(limit, 35)
    assert all(bool((row == FEATURES).all(1).any()) for row in rows)
    assert len(rows.unique(dim=0)) == len(rows)
    centres = fit_kmeans(rows, 3)
    assert centres is not None
    request = PassRequest(kmeans_centres={"only": {"weak_test_variance": centres}})
    found = run_pass(ListStream(FEATURES, LABELS), request, no_progress)
    expected = torch.cdist(FEATURES, centres.centres).amin(1).square().mean()
    assert found.kmeans_distances["only"] == pytest.approx({"weak_test_variance": float(expected)}, rel=1e-12)


def test_class_eigenvalues_come_from_features_in_memory_without_reading() -> None:
    stream = ListStream(FEATURES, LABELS)
    stream.in_memory = FEATURES, LABELS
    request = PassRequest(class_means={"only": MEANS}, own_classes=CLASSES)
    found = run_pass(stream, request, no_progress)
    assert stream.times_read == 0
    for c in range(3):
        covariance = torch.cov(FEATURES[c == LABELS].T, correction=0)
        largest = torch.linalg.eigvalsh(covariance)[-1]
        assert float(found.top_eigenvalues["only"][c]) == pytest.approx(float(largest), rel=1e-12)


def test_other_samples_in_a_later_pass_are_refused() -> None:
    request = PassRequest(train_means={"only": MEANS}, train_classes=CLASSES, num_samples=36)
    with pytest.raises(InputError, match="train: 35 samples came the second time, but 36 the first"):
        run_pass(ListStream(FEATURES, LABELS), request, no_progress)


@pytest.mark.parametrize("shared", [False, True])
def test_only_streams_that_are_shared_talk_to_other_processes(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(reading, "merged_over_ranks", lambda stats: calls.append("merged") or stats)
    monkeypatch.setattr(reading, "summed_over_ranks", lambda values: calls.append("summed") or values)
    stream = ListStream(FEATURES, LABELS)
    stream.is_shared = shared
    run_pass(stream, PassRequest(statistics={"only": lambda: ClassStats(4, 6)}), no_progress)
    assert calls == (["summed", "merged"] if shared else [])


def test_progress_counts_samples_and_says_what_is_done() -> None:
    calls: list[tuple[str, int, int]] = []
    stream = ListStream(FEATURES, LABELS, size=20)
    request = PassRequest(statistics={"only": lambda: ClassStats(4, 6)})
    run_pass(stream, request, lambda *call: calls.append(call))
    stream = ListStream(FEATURES, LABELS, size=20, declared=False)
    run_pass(
        stream,
        PassRequest(train_means={"only": MEANS}, train_classes=CLASSES),
        lambda *call: calls.append(call),
    )
    assert calls == [
        ("train: class statistics", 20, 35),
        ("train: class statistics", 35, 35),
        ("train: nearest class means", 20, 0),
        ("train: nearest class means", 35, 0),
    ]
