"""On an accelerator, a snapshot copies and compares many tensors at once; shown on the CPU, treated as one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from collapselab.probes import storages
from collapselab.probes.snapshot import Snapshot
from collapselab.statistics import gathering
from dispatch_counts import DispatchCounts


@pytest.fixture(autouse=True)
def _no_device_is_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "EAGER_DEVICES", frozenset())


def _network(blocks: int = 4) -> nn.Module:
    torch.manual_seed(0)
    layers = [part for _ in range(blocks) for part in (nn.Linear(5, 5), nn.BatchNorm1d(5))]
    return nn.Sequential(*layers, nn.Linear(5, 7, dtype=torch.float16))


# In bytes: three groups of int64, int32 and int16 words; groups of a few tensors; groups of one.
@pytest.mark.parametrize("group_bytes", [2**26, 150, 1])
def test_changes_are_named_and_undone(monkeypatch: pytest.MonkeyPatch, group_bytes: int) -> None:
    monkeypatch.setattr(storages, "_GROUP_BYTES", group_bytes)
    model = _network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = Snapshot([("", model)])
    model.get_buffer("1.running_mean").add_(1)
    model.get_parameter("2.weight").data[0, 0] = float("nan")
    model.get_parameter("8.bias").data[3] = 0.25
    model.get_parameter("6.bias").data.untyped_storage().resize_(0)
    changed, lost = state.restore()
    assert sorted(changed) == ["1.running_mean", "2.weight", "6.bias", "8.bias"]
    assert not lost
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_nothing_is_named_where_nothing_changed() -> None:
    state = Snapshot([("", _network())])
    assert state.restore() == ([], [])


def test_read_backs_do_not_grow_with_the_number_of_tensors() -> None:
    def number(blocks: int) -> int:
        model = _network(blocks)
        with DispatchCounts() as counts:
            Snapshot([("", model)]).restore()
        return counts.read_backs.total()

    assert 0 < number(20) == number(2) <= 3
