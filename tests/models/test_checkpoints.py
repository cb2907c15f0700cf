"""Weights from files, as trainers leave them."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        load_checkpoint(model, tmp_path / "c.pth")
    assert equal(model, state)
    removed = prefix.replace(
        "_orig_mod.", ""
    )  # of torch.compile: the names are those of the network all the same
    assert [str(one.message) for one in said] == (
        [f"{tmp_path / 'c.pth'}: the prefix {removed!r} of the names of tensors was removed"]
        if removed
        else []
    )


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
    assert "4 unexpected (extra0, extra1, extra2 and 1 more)" in message
    assert "1 misshapen (3.weight (3, 6) where the model has (3, 5))" in message
    assert equal(model, before)


def spring(what: str) -> None:
    pytest.fail(what)


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (spring, ("unpickled",))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    state = network().state_dict()
    for is_new in (True, False):
        torch.save(
            {"state_dict": state, "args": Trap()}, tmp_path / "c.pt", _use_new_zipfile_serialization=is_new
        )
        load_checkpoint(model := network(), tmp_path / "c.pt")  # or else the trap fails this test
        assert equal(model, state)
    for protocol in (2, 5):
        (tmp_path / "d.pt").write_bytes(pickle.dumps(Trap(), protocol))
        assert "no file of weights" in refusal(tmp_path / "d.pt")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.pt")
    (tmp_path / "c.txt").write_text("")
    assert "damaged or cut off, or no file of weights" in refusal(tmp_path / "c.txt")
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
    torch.save({"net": trained.state_dict(), "epoch": 3}, tmp_path / "c.pt")
    model = open_model(name, num_classes=2, input_shape=(4,), checkpoint=tmp_path / "c.pt")
    assert equal(model, trained.state_dict())
    torch.save({"0.weight": torch.zeros(9, 4)}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="misshapen"):
        open_model(name, num_classes=2, input_shape=(4,), checkpoint=tmp_path / "c.pt")


# -------------------------------------------------------------------- what a file may hold besides plain weights


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def changed(**tensors: Tensor) -> dict[str, Tensor]:
    """The state of the network with other tensors."""
    return dict(network().state_dict()) | {
        name.replace("_", ".", 1): value for name, value in tensors.items()
    }


UNUSABLE: dict[str, tuple[Callable[[], Tensor], str]] = {
    "meta": (lambda: torch.empty(5, 4, device="meta"), "0.weight is on the meta device"),
    "sparse": (lambda: torch.eye(5, 4).to_sparse(), "0.weight is sparse"),
    "compressed rows": (lambda: torch.eye(5, 4).to_sparse_csr(), "0.weight is sparse"),
    "quantised": (
        lambda: torch.quantize_per_tensor(torch.ones(5, 4), 0.1, 0, torch.qint8),
        "0.weight is quantised",
    ),
    "complex": (
        lambda: torch.ones(5, 4, dtype=torch.complex64),
        "type complex64 where the model has float32",
    ),
    "whole numbers": (lambda: torch.ones(5, 4, dtype=torch.int8), "type int8 where the model has float32"),
    "too large": (
        lambda: torch.full((5, 4), 1e200, dtype=torch.float64),
        "20 NaN or infinite values as float32",
    ),
    "no number": (lambda: torch.full((5, 4), float("nan")), "20 NaN or infinite values"),
    "huge, of one number": (lambda: torch.ones(1).expand(10**13), "misshapen (0.weight (10000000000000,)"),
}


@pytest.mark.filterwarnings("ignore:.*(Sparse|quantize|storage|deprecated)")
@pytest.mark.parametrize("kind", UNUSABLE)
def test_tensors_that_are_no_weights_are_refused(kind: str, tmp_path: Path) -> None:
    tensor, message = UNUSABLE[kind]
    refused = refusal(saved(tmp_path / "c.pt", changed(**{"0_weight": tensor()})))
    assert message in refused
    assert len(refused) <= 300 + len(str(tmp_path))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.float8_e5m2])
def test_another_precision_is_converted_and_said(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in network().state_dict().items()
    }
    model = network()
    with pytest.warns(UserWarning, match="weights are converted from .* to float32"):
        load_checkpoint(model, saved(tmp_path / "c.pt", state))
    assert equal(model, {name: value.to(model.state_dict()[name].dtype) for name, value in state.items()})


def test_a_mapping_that_contains_itself_ends(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["state_dict"] = endless
    assert "no state dict but state_dict" in refusal(saved(tmp_path / "c.pt", endless))
    deep: dict[str, Any] = dict(network().state_dict())
    for _ in range(400):
        deep = {"model": deep}
    assert "no state dict but model" in refusal(saved(tmp_path / "d.pt", deep))


def test_a_whole_module_has_its_weights_read(tmp_path: Path) -> None:
    trained = network()
    load_checkpoint(model := network(), saved(tmp_path / "c.pt", {"model": trained, "epoch": 2}))
    assert equal(model, trained.state_dict())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
def test_every_cut_is_refused(legacy: bool, tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "c.pt", _use_new_zipfile_serialization=not legacy)
    whole = (tmp_path / "c.pt").read_bytes()
    for kept in range(0, len(whole), len(whole) // 40):
        (tmp_path / "c.pt").write_bytes(whole[:kept])
        refusal(tmp_path / "c.pt")
        if not legacy:  # a piece missing from the middle
            (tmp_path / "c.pt").write_bytes(whole[:kept] + whole[kept + 50 :])
            refusal(tmp_path / "c.pt")


def test_changed_bytes_never_load_other_weights(tmp_path: Path, rng: np.random.Generator) -> None:
    state = dict(network().state_dict())
    whole = saved(tmp_path / "c.pt", state).read_bytes()
    noticed = 0
    for place in rng.integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 16
        (tmp_path / "c.pt").write_bytes(damaged)
        model = network()
        try:
            load_checkpoint(model, tmp_path / "c.pt")
        except InputError:
            noticed += 1
        else:
            assert equal(model, state)
    assert noticed > 30  # the others are padding


def test_an_entry_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pt", network().state_dict())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"x")
    assert "has an entry twice" in refusal(path)
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path = tmp_path / "c.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert "has an entry twice" in refusal(path)


def test_sizes_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c/data.pkl", bytes(10**7))
    assert "compressed, or damaged" in refusal(path)
    path = tmp_path / "c.safetensors"
    for header in (
        b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
        b"[" * 10**5,
    ):
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        assert "cannot be read" in refusal(path)
    path.write_bytes((2**63).to_bytes(8, "little") + b"{}")
    assert "cannot be read" in refusal(path)


def test_what_is_no_file_of_weights(tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    assert "is no file" in refusal(tmp_path / "folder.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    assert "a pipe or a device, not a file" in refusal(tmp_path / "pipe.pt")
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    assert "or no file of weights" in refusal(tmp_path / "arrays.npz")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)
        self.head.weight = self.embedding.weight
        self.also = self.head


@pytest.mark.parametrize("given", ["embedding.weight", "head.weight", "also.weight"])
def test_weights_that_the_model_ties_may_be_stored_once(given: str, tmp_path: Path) -> None:
    weight, bias = torch.randn(7, 4), torch.randn(7)
    save_file({given: weight, "head.bias": bias}, tmp_path / "c.safetensors")
    model = Tied()
    load_checkpoint(model, tmp_path / "c.safetensors")
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model.embedding.weight, weight)
    assert torch.equal(model.also.bias, bias)


def test_different_values_of_tied_weights_are_refused(tmp_path: Path) -> None:
    state = dict(Tied().state_dict()) | {"head.weight": torch.zeros(7, 4)}
    assert "which the model ties" in refusal(saved(tmp_path / "c.pt", state), Tied())


def test_extra_state_is_no_weight(tmp_path: Path) -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

        def set_extra_state(self, state: Any) -> None:
            raise AssertionError(state)

    trained = Counting(2, 3)
    load_checkpoint(model := Counting(2, 3), saved(tmp_path / "c.pt", trained.state_dict()))
    assert torch.equal(model.weight, trained.weight)
