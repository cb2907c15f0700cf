"""Features that fit are kept, and the network runs once: on a CPU, and on a CPU that is treated as an accelerator."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import collapselab
from collapselab.probes import kept, network
from collapselab.statistics import gathering

NUM_SAMPLES, BATCH, NUM_CLASSES = 60, 8, 3
# Not an attribute of the network: `profile` would restore it.
READ: Counter[str] = Counter()


@pytest.fixture(autouse=True, params=["cpu", "accelerator"])
def on_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the CPU is one; otherwise it is treated as an accelerator."""
    monkeypatch.setattr(gathering, "EAGER_DEVICES", frozenset({"cpu"} if request.param == "cpu" else ()))
    return request.param == "cpu"


class _Counting(nn.Module):
    """Changes in place what its second layer has read; counts the samples that it reads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(7, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        READ["samples"] += len(x)
        hidden = self.first(x)
        out = self.second(hidden)
        hidden.zero_()
        return self.head(out.relu())


def _loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, NUM_CLASSES, (NUM_SAMPLES,), generator=generator)
    rows = torch.randn(NUM_SAMPLES, 5, generator=generator) + labels[:, None]
    return DataLoader(TensorDataset(rows, labels), BATCH)


def _metrics(profile: collapselab.Profile) -> list[dict[str, float | None]]:
    return [layer.train for layer in profile.layers]


def _assert_same(one: dict[str, float | None], other: dict[str, float | None]) -> None:
    """Sums of rows in other groups round differently."""
    undefined = [{name for name, value in metrics.items() if value is None} for metrics in (one, other)]
    assert undefined[0] == undefined[1]
    values = [{name: v for name, v in metrics.items() if v is not None} for metrics in (one, other)]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def _profiled(loader: Any, **options: Any) -> tuple[list[dict[str, float | None]], int]:
    model = _Counting()
    READ.clear()
    collapselab.profile(model, _loader(), metrics=["squared_distance"], **options)  # planning, and one pass
    once, READ["samples"] = READ["samples"], 0
    found = collapselab.profile(model, loader, **options)
    assert not any("second pass" in text for text in found.warnings)
    return _metrics(found), READ["samples"] - once


@pytest.mark.parametrize("scatter", ["full", "sketch", "trace"])
@pytest.mark.parametrize("group_bytes", [2**25, 300])
def test_the_network_runs_once_and_results_are_the_same(
    monkeypatch: pytest.MonkeyPatch, scatter: str, group_bytes: int, on_cpu: bool
) -> None:
    monkeypatch.setattr(kept, "_GROUP_BYTES", group_bytes)
    found, more = _profiled(_loader(), scatter=scatter)
    assert more == 0
    monkeypatch.setattr(kept, "SHARE", 0.0)
    expected, more = _profiled(_loader(), scatter=scatter)
    assert more == NUM_SAMPLES
    if on_cpu:  # to the last bit
        assert found == expected
    for one, other in zip(found, expected, strict=True):
        _assert_same(one, other)
        assert one["ncc_agreement"] is not None


def test_labels_that_become_known_as_they_come_are_numbered_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the loader nor a data set says which labels there are, and the highest comes first."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(NUM_SAMPLES, 0, -1) // 16
    rows = torch.randn(NUM_SAMPLES, 5, generator=generator) + labels[:, None]
    batches = list(zip(rows.split(BATCH), labels.split(BATCH), strict=True))
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))
    found = _metrics(collapselab.profile(model, batches))
    monkeypatch.setattr(kept, "SHARE", 0.0)
    expected = _metrics(collapselab.profile(model, batches))
    for one, other in zip(found, expected, strict=True):
        _assert_same(one, other)
        assert (one["ncc_accuracy"] or 0) > 0.5


def test_an_iterator_is_measured_whole() -> None:
    found, more = _profiled(iter(_loader()))
    assert more == 0
    assert all(layer["ncc_accuracy"] is not None for layer in found)


class _Noisy:
    """Yields other inputs each time it is read, as random transforms do."""

    def __iter__(self) -> Any:
        READ["readings"] += 1
        generator = torch.Generator().manual_seed(READ["readings"])
        for rows, labels in _loader():
            yield rows + torch.randn(rows.shape, generator=generator), labels


def test_random_transforms_are_drawn_once() -> None:
    """Nearest class means are those of the features that the means were computed from."""
    found, _ = _profiled(_Noisy())
    assert READ["readings"] == 1
    READ.clear()
    expected, _ = _profiled(list(_Noisy()))
    for one, other in zip(found, expected, strict=True):
        _assert_same(one, other)


def _store(free: int, monkeypatch: pytest.MonkeyPatch, num_labels: int | None = None) -> kept.KeptFeatures:
    monkeypatch.setattr(kept, "free_memory", lambda _device: free)
    return kept.KeptFeatures(num_labels)


def test_features_that_do_not_fit_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    store = _store(4 * 1000, monkeypatch)
    for _ in range(2):
        store.add("layer", torch.zeros(8, 10))
        store.end_batch(torch.zeros(8, dtype=torch.int64), None)
    assert store.fits  # 640 of 1000 bytes
    store.add("layer", torch.zeros(8, 12))
    assert not store.fits
    store.complete()
    assert not store
    assert list(store.read()) == []


@pytest.mark.parametrize(
    ("num_labels", "num_processes", "fits"), [(24, 1, True), (32, 1, False), (48, 2, False)]
)
def test_nothing_more_is_copied_once_it_is_known_not_to_fit(
    num_labels: int, num_processes: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight rows take 320 of 1000 bytes, or of 500 where two processes share the memory of the host."""
    monkeypatch.setattr(kept, "rank_and_world", lambda: (0, num_processes))
    store = _store(4 * 1000, monkeypatch, num_labels)
    store.add("layer", torch.zeros(8, 10))
    store.end_batch(torch.zeros(8, dtype=torch.int64), None)
    assert store.fits == fits


class _TooLarge(Tensor):
    def clone(self, **_: Any) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 320 bytes")


def test_want_of_memory_for_a_copy_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    store = _store(2**20, monkeypatch)
    store.add("layer", torch.zeros(8, 10))
    store.add("other", torch.zeros(8, 10).as_subclass(_TooLarge))
    assert not store.fits
    assert list(store.read()) == []


def test_nothing_is_kept_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    stores: list[weakref.ref[kept.KeptFeatures]] = []

    def create(*arguments: Any) -> kept.KeptFeatures:
        store = kept.KeptFeatures(*arguments)
        stores.append(weakref.ref(store))
        return store

    def interrupt(_what: str, done: int, _total: int) -> None:
        if done > NUM_SAMPLES // 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(network, "KeptFeatures", create)
    with pytest.raises(KeyboardInterrupt):
        collapselab.profile(_Counting(), _loader(), progress=interrupt)
    gc.collect()
    assert [store() for store in stores] == [None]


class _Ring:
    """Yields batches in turn in three pieces of memory; two batches are looked at before the pass."""

    def __iter__(self) -> Any:
        ring = [(torch.empty(BATCH, 5), torch.empty(BATCH, dtype=torch.int64)) for _ in range(3)]
        for number, (own_rows, own_labels) in enumerate(_loader()):
            rows, labels = (part[: len(own_labels)] for part in ring[number % 3])
            rows.copy_(own_rows)
            labels.copy_(own_labels)
            yield rows, labels


def test_memory_that_a_loader_fills_again_is_not_kept() -> None:
    found, _ = _profiled(_Ring())
    expected, _ = _profiled(_loader())
    for one, other in zip(found, expected, strict=True):
        _assert_same(one, other)
