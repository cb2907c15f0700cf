"""Weights from files, as trainers leave them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.models import load_checkpoint, open_model


def network(outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, outputs))


def equal(model: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def refusal(path: Path, model: nn.Module | None = None) -> str:
    with pytest.raises(InputError) as raised:
        load_checkpoint(model or network(), path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("nesting", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_nestings_and_prefixes(nesting: str | None, prefix: str, tmp_path: Path) -> None:
    state = network().state_dict()
    content: dict[str, Any] = {prefix + name: value for name, value in state.items()}
    if nesting:
        content = {nesting: content, "epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / "c.pth")
    model = network()
    load_checkpoint(model, tmp_path / "c.pth")
    assert equal(model, state)


def test_safetensors(tmp_path: Path) -> None:
    state = network().state_dict()
    save_file(dict(state), tmp_path / "c.safetensors")
    model = network()
    load_checkpoint(model, tmp_path / "c.safetensors")
    assert equal(model, state)


def test_prefixes_of_the_model_itself_are_kept(tmp_path: Path) -> None:
    model = nn.ModuleDict({"model": nn.Linear(2, 2)})
    torch.save(model.state_dict(), tmp_path / "c.pt")
    load_checkpoint(nn.ModuleDict({"model": nn.Linear(2, 2)}), tmp_path / "c.pt")


def test_old_files_do_not_count_batches(tmp_path: Path) -> None:
    state = {name: value for name, value in network().state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "c.pt")
    load_checkpoint(network(), tmp_path / "c.pt")


def test_what_does_not_fit_is_listed_and_nothing_is_loaded(tmp_path: Path) -> None:
    state = dict(network().state_dict())
    del state["0.bias"]
    state |= {"3.weight": torch.zeros(3, 6), **{f"extra{i}": torch.zeros(1) for i in range(4)}}
    torch.save(state, tmp_path / "c.pt")
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    message = refusal(tmp_path / "c.pt", model)
    assert "1 missing (0.bias)" in message
    assert "4 unexpected (extra0, extra1, extra2, …)" in message
    assert "1 misshapen (3.weight (3, 6) where the model has (3, 5))" in message
    assert equal(model, before)


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("unpickled",))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    torch.save({"state_dict": network().state_dict(), "args": Trap()}, tmp_path / "c.pt")
    assert "Python objects" in refusal(tmp_path / "c.pt")
    (tmp_path / "d.pt").write_bytes(pickle.dumps(Trap()))
    assert "Python objects" in refusal(tmp_path / "d.pt")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.pt")
    (tmp_path / "c.txt").write_text("")
    assert "not a checkpoint by its name" in refusal(tmp_path / "c.txt")
    torch.save(network().state_dict(), tmp_path / "c.pt")
    save_file(dict(network().state_dict()), tmp_path / "c.safetensors")
    for path in (tmp_path / "c.pt", tmp_path / "c.safetensors"):
        whole = path.read_bytes()
        for damaged in (b"", whole[:100], whole[:-40], b"what"):
            path.write_bytes(damaged)
            assert str(path) in refusal(path)
    torch.save({"epoch": 3, "note": "x"}, tmp_path / "c.pt")
    assert "no state dict but epoch, note" in refusal(tmp_path / "c.pt")
    torch.save(torch.zeros(3), tmp_path / "c.pt")
    assert "no state dict but Tensor" in refusal(tmp_path / "c.pt")


def test_the_classifier_of_the_checkpoint_decides_the_outputs(tmp_path: Path) -> None:
    builder = tmp_path / "nets.py"
    builder.write_text(
        "from torch import nn\ndef net(num_classes):\n    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, num_classes))\n"
    )
    name = f"{builder}:net"
    trained = open_model(name, num_classes=7, input_shape=(4,), seed=1)
    torch.save({f"module.{key}": value for key, value in trained.state_dict().items()}, tmp_path / "c.pt")
    model = open_model(name, num_classes=2, input_shape=(4,), checkpoint=tmp_path / "c.pt")
    assert equal(model, trained.state_dict())
    torch.save({"0.weight": torch.zeros(9, 4)}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="misshapen"):
        open_model(name, num_classes=2, input_shape=(4,), checkpoint=tmp_path / "c.pt")
