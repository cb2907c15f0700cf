"""Tensors of any device and of mixed devices, and passes that wait for no accelerator."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import collapselab
from collapselab.errors import InputError
from collapselab.metrics import METRICS, MetricInputs, NearestCentreCounts, evaluate
from collapselab.metrics.decision import nearest_class_centre, network_rule
from collapselab.metrics.generalization import Reference, labelled_variance, squared_distances_to_nearest
from collapselab.metrics.kmeans import fit_kmeans
from collapselab.metrics.spectrum import top_eigenvalues_of_rows
from collapselab.passes import PassRequest, reading
from collapselab.passes.stream import no_progress
from collapselab.statistics import Chunk, ClassStats, SketchRefinement, nystrom
from collapselab.statistics.scatter import SCATTERS
from devices import Put, accelerators, putting_on
from dispatch_counts import DispatchCounts
from helpers import EPS32, assert_close, summary

N, DIM, CLASSES = 300, 20, 5
WHY = "float32 products of rows in other blocks"


def draw(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(N) % CLASSES
    means = 2 * torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(9))
    return torch.randn(N, DIM, generator=generator) + means[labels], labels


ROWS, LABELS = draw()
WEIGHT = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(3))
BIAS = torch.randn(CLASSES, generator=torch.Generator().manual_seed(4))


def same(tensor: Tensor) -> Tensor:
    return tensor


def assert_same_values(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (value if value is None else pytest.approx(value, rel=1e-5, abs=1e-6)), name


def mixtures(number: int) -> list[tuple[bool, ...]]:
    return list(itertools.product([False, True], repeat=number))[1:]


# ---------------------------------------------------------------- every function


@accelerators
@pytest.mark.parametrize("moved", mixtures(4), ids=lambda moved: "".join("ny"[part] for part in moved))
def test_measure_takes_tensors_of_mixed_devices(accelerator: str, moved: tuple[bool, ...]) -> None:
    """All metrics; features, labels, classifier and test data on the accelerator or not."""
    test_rows, test_labels = draw(1)

    def measured(*puts: Put) -> collapselab.Measurement:
        rows, labels, classifier, test = puts
        return collapselab.measure(
            rows(ROWS),
            labels(LABELS),
            weight=classifier(WEIGHT),
            bias=classifier(BIAS),
            test=(test(test_rows), labels(test_labels)),
            spectra=True,
        )

    expected = measured(same, same, same, same)
    with putting_on(accelerator) as put:
        found = measured(*(put if part else same for part in moved))
    for split, values in expected.splits.items():
        assert_same_values(found.splits[split], values)
    assert found.warnings == expected.warnings


@accelerators
@pytest.mark.parametrize("scatter", SCATTERS)
@pytest.mark.parametrize("moved", mixtures(2), ids=["labels", "rows", "both"])
def test_statistics_of_mixed_devices(accelerator: str, scatter: Any, moved: tuple[bool, bool]) -> None:
    def summed(*puts: Put) -> ClassStats:
        rows, labels = puts
        stats = ClassStats(CLASSES, DIM, scatter, class_counts=torch.bincount(LABELS), sketch_size=3)
        for part in torch.arange(N).split(90):
            stats.update(rows(ROWS[part]), labels(LABELS[part]))
        return stats

    expected = summary(summed(same, same))
    with putting_on(accelerator) as put:
        stats = summed(*(put if part else same for part in moved))
        assert (stats.device.type == "cpu") == (not moved[0])
        merged = ClassStats.merge([stats, summed(same, same)])
        loaded = ClassStats.from_state_dict(stats.state_dict())
        found = {"": stats, "loaded": loaded}
        read = {
            name: {key: value.cpu() for key, value in _read(part).items()} for name, part in found.items()
        }
        assert merged.num_samples == 2 * N
    for values in read.values():
        for name, value in values.items():
            assert_close(value, expected[name], rel=32 * EPS32, why=WHY)


def _read(stats: ClassStats) -> dict[str, Tensor]:
    out = {"means": stats.class_means, "variances": stats.class_variances, "unit_means": stats.unit_means}
    if stats.scatter == "full":
        out["within"] = stats.within_covariance()
    return out


@accelerators
def test_statistics_stored_on_the_cpu_of_features_elsewhere(accelerator: str) -> None:
    with putting_on(accelerator) as put:
        stats = ClassStats(CLASSES, DIM, device="cpu")
        stats.update(put(ROWS), put(LABELS))
        assert stats.device.type == "cpu"
        assert stats.counts.tolist() == [N // CLASSES] * CLASSES


@accelerators
@pytest.mark.parametrize("moved", mixtures(2), ids=["weight", "rows", "both"])
def test_every_metric_of_mixed_devices(accelerator: str, moved: tuple[bool, bool]) -> None:
    def values(*puts: Put) -> dict[str, Any]:
        rows, weight = puts
        stats = ClassStats(CLASSES, DIM, "per_class", class_counts=torch.bincount(LABELS))
        stats.update(rows(ROWS), LABELS)
        inputs = MetricInputs(
            stats, weight=weight(WEIGHT), nearest_centre=NearestCentreCounts(N, N - 1, N - 2)
        )
        return evaluate(METRICS, inputs)

    expected = values(same, same)
    with putting_on(accelerator) as put:
        found = values(*(put if part else same for part in moved))
    assert_same_values(found, expected)


@accelerators
@pytest.mark.parametrize("moved", mixtures(2), ids=["others", "rows", "both"])
def test_functions_of_rows_take_mixed_devices(accelerator: str, moved: tuple[bool, bool]) -> None:
    means = torch.stack([ROWS[c == LABELS].mean(0) for c in range(CLASSES)]).double()

    def values(*puts: Put) -> list[list[float]]:
        rows, others = puts
        x, centres = rows(ROWS), others(means)
        fitted = fit_kmeans(x, CLASSES, trimmed=True)
        assert fitted is not None
        variances = others(torch.ones(CLASSES, dtype=torch.float64))
        refinement = SketchRefinement(
            others(torch.eye(DIM, 2)), centres, others(torch.full((CLASSES,), 1 / N))
        )
        refinement.update(x, LABELS)
        spectrum = refinement.result(30.0, product_eps=1e-6)
        mixed = nystrom(refinement.total, rows(torch.eye(DIM, 2).double()), 30.0, product_eps=1e-6)
        return [
            nearest_class_centre(x, centres).tolist(),
            network_rule(others(WEIGHT), rows(BIAS))(x).tolist(),
            squared_distances_to_nearest(x, Reference(centres)).tolist(),
            top_eigenvalues_of_rows(x, LABELS, centres).tolist(),
            [labelled_variance(LABELS.bincount(), rows(means), variances, Reference(centres)) or 0.0],
            fitted.squared_distances(others(ROWS)).tolist(),
            spectrum.values.tolist(),
            mixed.values.tolist(),
        ]

    expected = values(same, same)
    with putting_on(accelerator) as put:
        found = values(*(put if part else same for part in moved))
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


# ---------------------------------------------------------------- passes


class Stream:
    """Batches of one source on an accelerator, and decisions for them."""

    split = where = "train"
    is_shared = False
    in_memory = expected_labels = None
    can_be_read_again = True

    def __init__(self, put: Put) -> None:
        self.label_values, self.declared_counts = torch.arange(CLASSES), torch.bincount(LABELS)
        self.batches = [
            (put(rows.clone()), labels) for rows, labels in zip(ROWS.split(20), LABELS.split(20), strict=True)
        ]

    def settle_labels(self) -> None:
        return None

    def read(self, receive: Any, end_batch: Any) -> None:
        for rows, labels in self.batches:
            receive("only", rows, labels)
            end_batch(labels, lambda decided=labels: decided)


def request_of_everything(put: Put) -> PassRequest:
    centres = fit_kmeans(ROWS, CLASSES)
    assert centres is not None
    means = put(torch.stack([ROWS[c == LABELS].mean(0) for c in range(CLASSES)]).double())
    vectors, weights = put(torch.eye(DIM, 2)), put(torch.full((CLASSES,), 1 / N))
    return PassRequest(
        statistics={"only": lambda: ClassStats(CLASSES, DIM)},
        train_means={"only": means},
        train_classes=torch.arange(CLASSES),
        decisions=True,
        refinements={"only": lambda: SketchRefinement(vectors, means, weights)},
        own_classes=torch.arange(CLASSES),
        kmeans_rows=("only",),
        kmeans_centres={"only": {"weak_test_variance": centres}},
    )


@accelerators
def test_a_pass_gathers_and_finds_the_same(accelerator: str) -> None:
    plain = reading.run_pass(Stream(same), request_of_everything(same), no_progress)
    with putting_on(accelerator) as put:
        found = reading.run_pass(Stream(put), request_of_everything(put), no_progress)
        means = found.statistics["only"].class_means.cpu()
        totals = [part.refinements["only"].total.cpu() for part in (found, plain)]
        rows = found.kmeans_rows["only"].cpu()
    assert found.nearest == plain.nearest
    assert found.nearest["only"].num_agreeing == found.nearest["only"].num_correct
    assert torch.equal(rows, ROWS)
    assert_close(means, plain.statistics["only"].class_means, rel=EPS32, why="float32 sums about centres")
    assert_close(totals[0], totals[1], rel=8 * EPS32, why="float32 products")
    assert found.kmeans_distances["only"] == pytest.approx(plain.kmeans_distances["only"], rel=1e-12)


@accelerators
def test_statistics_of_a_pass_can_be_stored_on_the_cpu(accelerator: str) -> None:
    with putting_on(accelerator) as put:
        request = PassRequest(statistics={"only": lambda: ClassStats(CLASSES, DIM, device="cpu")})
        stats = reading.run_pass(Stream(put), request, no_progress).statistics["only"]
        assert stats.device.type == "cpu"
        assert_close(
            stats.class_means,
            torch.stack([ROWS[c == LABELS].double().mean(0) for c in range(CLASSES)]),
            rel=EPS32,
            why="float32 sums about centres",
        )


@accelerators
def test_no_batch_of_a_pass_waits_for_the_accelerator(accelerator: str) -> None:
    with putting_on(accelerator) as put:
        stream = Stream(put)
        work = reading._Reading(stream, request_of_everything(put), no_progress)
        (rows, labels), *_ = stream.batches
        work.receive("only", rows, labels)
        work.end_batch(labels, lambda: labels)
        with DispatchCounts("cuda") as counts:
            work.receive("only", rows, labels)
            work.end_batch(labels, lambda: labels)
    assert not counts.read_backs
    assert 0 < counts.operations.total() <= 25


@accelerators
def test_an_update_on_an_accelerator_waits_for_nothing(accelerator: str) -> None:
    """Without any argument: checks are deferred there."""
    with putting_on(accelerator) as put:
        rows, stats = put(ROWS), ClassStats(CLASSES, DIM)
        stats.update(rows, LABELS)
        with DispatchCounts("cuda") as counts:
            stats.update(rows, LABELS)
    assert not counts.read_backs


@accelerators
@pytest.mark.parametrize(("dim", "num_classes"), [(128, 4), (2048, 1000)])
def test_a_chunk_is_added_with_few_operations_and_two_looks_at_it(
    accelerator: str, dim: int, num_classes: int
) -> None:
    """What decides about the chunk, and about its block: two lists of values, on their way while the device works on."""
    n = 4096
    labels = torch.arange(n) % num_classes
    rows = torch.randn(n, dim, generator=torch.manual_seed(0)) + labels[:, None] % 7
    with putting_on(accelerator) as put:
        chunk = Chunk(put(rows), put(labels), ((0, n),))
        stats = ClassStats(num_classes, dim)
        for _ in range(2):  # classes are new, and their centres are judged
            stats.add_chunk(chunk)
        with DispatchCounts("cuda") as counts:
            stats.add_chunk(chunk)
    assert counts.operations.total() <= 100  # views included
    # On the pretended device, each conversion to another dtype looks like a copy to the host.
    assert {name: number for name, number in counts.read_backs.items() if "_to_copy" not in name} == {
        "Tensor.tolist": 2
    }


@accelerators
def test_a_gathered_batch_that_cannot_be_measured_is_named(accelerator: str) -> None:
    with putting_on(accelerator) as put:
        stream = Stream(put)
        stream.batches[3][0][7, 1] = torch.nan
        request = PassRequest(statistics={"only": lambda: ClassStats(CLASSES, DIM)})
        with pytest.raises(
            InputError,
            match=r"^train, batch 3, layer only: features contain NaN or infinity, the first in row 7 of this batch \(counting from 0\)$",
        ):
            reading.run_pass(stream, request, no_progress)
