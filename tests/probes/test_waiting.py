"""A pass over a network asks an accelerator for nothing, batch by batch; shown on the CPU, treated as an accelerator."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import collapselab
from collapselab import InputError
from collapselab.statistics import gathering
from dispatch_counts import DispatchCounts

BATCH, NUM_BATCHES, NUM_CLASSES = 8, 6, 3
# Operations per layer and batch, beside the model's own: three views that bring samples to the front and flatten them, a
# mean (`gap`), and a copy of the rows and of the labels into the chunk, each with a view of it; where nearest centres are
# compared with decisions, ten more on the host, which count samples.
MOST_PER_LAYER = {"class statistics": 8, "sharper spectra": 8, "nearest class means": 18}
# Per batch: labels of the batch, and decisions of the network.
MOST_PER_BATCH = 20


class _Maps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(5))
        self.head = nn.Linear(3, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x.mean((2, 3)))


class _Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6, padding_idx=0)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.head = nn.Linear(6, NUM_CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = layer(x).relu()
        return self.head((x * attention_mask[:, :, None]).sum(1))


pytestmark = pytest.mark.usefixtures("reads_twice")


@pytest.fixture(autouse=True)
def _no_device_is_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "EAGER_DEVICES", frozenset())


class _Between:
    """Counts what happens from the end of the first batch of a pass to the end of its last batch, by pass."""

    def __init__(self, counts: DispatchCounts) -> None:
        self._counts = counts
        self.read_backs: dict[str, Counter[str]] = {}
        self.operations: dict[str, int] = {}

    def __call__(self, what: str, done: int, _total: int) -> None:
        if done == BATCH:
            self._counts.read_backs.clear()
            self._counts.operations.clear()
        if done == BATCH * NUM_BATCHES:
            self.read_backs[what] = Counter(self._counts.read_backs)
            self.operations[what] = self._counts.operations.total()


def _images() -> Any:
    torch.manual_seed(0)
    labels = torch.arange(BATCH * NUM_BATCHES) % NUM_CLASSES
    return _Maps(), DataLoader(TensorDataset(torch.randn(len(labels), 3, 6, 6), labels), BATCH)


def _sentences(*, of_tokens: bool = False, empty: bool = False) -> Any:
    torch.manual_seed(0)
    batches = []
    for number in range(NUM_BATCHES):
        ids = torch.randint(1, 20, (BATCH, 5))
        mask = torch.arange(5) < torch.randint(2, 6, (BATCH, 1))
        if empty and number == 3:
            mask[2] = False
        labels = torch.arange(BATCH) % NUM_CLASSES
        labels = labels[:, None].expand(-1, 5).masked_fill(~mask, -100) if of_tokens else labels
        batches.append({"input_ids": ids * mask, "attention_mask": mask.long(), "labels": labels})
    return _Tokens(), batches


def _measured(model: nn.Module, loader: Any, **options: Any) -> tuple[_Between, collapselab.Profile]:
    with DispatchCounts() as counts:
        between = _Between(counts)
        found = collapselab.profile(model, loader, loader, progress=between, **options)
    return between, found


@pytest.mark.parametrize("reduce", ["flatten", "gap"])
@pytest.mark.parametrize("scatter", ["full", "sketch", "trace"])
def test_no_batch_of_images_is_waited_for(reduce: str, scatter: Any) -> None:
    model, loader = _images()
    between, found = _measured(model, loader, reduce=reduce, scatter=scatter)
    assert {"train: class statistics", "train: nearest class means"} <= set(between.read_backs)
    assert not sum(between.read_backs.values(), Counter())
    with DispatchCounts() as counts, torch.no_grad():
        for inputs, _ in loader:
            model(inputs)
    own = counts.operations.total() * (NUM_BATCHES - 1) / NUM_BATCHES
    for what, number in between.operations.items():
        per_layer = MOST_PER_LAYER[what.partition(": ")[2]]
        assert number - own <= (NUM_BATCHES - 1) * (per_layer * len(found.layers) + MOST_PER_BATCH)


@pytest.mark.parametrize("reduce", ["flatten", "mean", "token:last", "token:3"])
def test_no_batch_of_sentences_is_waited_for(reduce: str) -> None:
    between, found = _measured(*_sentences(), reduce=reduce, class_counts=[18, 18, 12])
    assert not sum(between.read_backs.values(), Counter())
    assert any("token:3 is padding" in text for text in found.warnings) == (reduce == "token:3")


def test_no_batch_of_tokens_is_waited_for() -> None:
    model, batches = _sentences(of_tokens=True)
    with DispatchCounts() as counts:
        collapselab.profile(_PerToken(model), batches, progress=(between := _Passes(counts)), scores=False)
    assert between.read_backs
    assert not sum(between.read_backs, Counter())


class _PerToken(nn.Module):
    def __init__(self, model: _Tokens) -> None:
        super().__init__()
        self.embedding, self.layers, self.head = model.embedding, model.layers, model.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


class _Passes:
    """Counts read-backs from the end of each batch to the end of the next, in batches of any number of samples."""

    def __init__(self, counts: DispatchCounts) -> None:
        self._counts, self._what = counts, ""
        self.read_backs: list[Counter[str]] = []

    def __call__(self, what: str, _done: int, _total: int) -> None:
        if what == self._what and not what.endswith("metrics"):  # those are computed after the pass
            self.read_backs.append(Counter(self._counts.read_backs))
        self._what = what
        self._counts.read_backs.clear()


def test_a_sample_of_padding_is_found_at_the_end_of_the_pass() -> None:
    model, batches = _sentences(empty=True)
    with pytest.raises(InputError, match="reduce='mean': a sample has no token that is not padding"):
        collapselab.profile(model, batches, reduce="mean")


def test_an_error_names_batch_and_layer() -> None:
    model, _ = _images()
    batches = list(_images()[1])
    batches[4][0][5] = float("nan")
    with pytest.raises(
        InputError, match=r"train, batch 4, layer layers\.0: .*NaN or infinity, the first in row 5"
    ):
        collapselab.profile(model, batches)


def test_results_are_those_of_eager_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, loader = _images()
    deferred = collapselab.profile(model, loader, loader)
    monkeypatch.setattr(gathering, "EAGER_DEVICES", frozenset({"cpu"}))
    eager = collapselab.profile(model, loader, loader)
    for one, other in zip(deferred.layers, eager.layers, strict=True):
        for split in ("train", "test"):
            for name, value in other.splits[split].metrics.items():
                if value is None:
                    assert one.splits[split].metrics[name] is None
                    continue
                # Sums of float32 deviations in another order; near zero the ratio of two sums is what counts.
                assert one.splits[split].metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-7)
