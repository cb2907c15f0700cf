"""Checkpoints as trainers write them: any name, any nesting, other objects beside the weights."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from collapselab.errors import InputError, InputNote
from collapselab.models import load_checkpoint


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


class Settings(dict[str, Any]):
    """A mapping of a class of its own, as libraries of configurations have."""


@dataclasses.dataclass
class Record:
    """An object with attributes."""

    epoch: int
    path: pathlib.PurePosixPath


class Slotted:
    """An object whose state is no dictionary."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 1


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def averaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}


def lightning(state: dict[str, Tensor]) -> dict[str, Any]:
    weight = {"criterion.weight": torch.ones(3)}  # of the loss
    return {
        "state_dict": prefixed("backbone.", state) | weight,
        "hyper_parameters": Settings(lr=0.1),
        "epoch": 3,
    }


FORMS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "net": (lambda state: {"net": state, "acc": 94.1, "epoch": 199}, ""),
    "namespace": (lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, model=None)}, ""),
    "record": (lambda state: {"model": state, "record": Record(3, pathlib.PurePosixPath("a/b"))}, ""),
    "numbers": (lambda state: {"model": state, "best": np.float64(0.9), "curve": np.arange(3.0)}, ""),
    "mapping": (lambda state: {"model": state, "config": Settings(lr=0.1), "best": np.float64(0.9)}, ""),
    "slots": (lambda state: {"model": state, "object": Slotted()}, ""),
    "lightning": (lightning, "the prefix 'backbone.' .* not used .criterion.weight."),
    "averaged only": (lambda state: {"ema": {"shadow": state, "updates": 7}}, "averaged ones .'ema.shadow'."),
    "both": (
        lambda state: {
            "model_ema": averaged(state),
            "model": state,
            "optimizer": {"state": {0: {"m": torch.ones(2)}}},
        },
        "'model'; model_ema would fit too",
    ),
    "swa": (
        lambda state: prefixed("module.", state) | {"n_averaged": torch.tensor(3)},
        "the prefix 'module.'.* .n_averaged.",
    ),
    "compiled inside": (
        lambda state: {name.replace("3.", "3._orig_mod."): value for name, value in state.items()},
        "",
    ),
    "whole network": (lambda state: whole(state), ""),
}


def whole(state: dict[str, Tensor]) -> nn.Module:
    model = network()
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_new", [True, False], ids=["zip", "before torch 1.6"])
def test_trainers_forms(form: str, is_new: bool, tmp_path: Path) -> None:
    state, path = dict(network().state_dict()), tmp_path / "checkpoint"
    make, said = FORMS[form]
    torch.save(make(state), path, _use_new_zipfile_serialization=is_new)
    model = network()
    if form == "whole network" and not is_new:  # it has the source of its classes between its tensors
        with pytest.raises(InputError, match="refused"):
            load_checkpoint(model, path)
        return
    if said:
        with pytest.warns(InputNote, match=said):
            load_checkpoint(model, path)
    else:
        load_checkpoint(model, path)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pth.tar", ".weights", ".safetensors"])
def test_the_name_of_the_file_does_not_matter(suffix: str, tmp_path: Path) -> None:
    state = dict(network().state_dict())
    torch.save({"net": state}, tmp_path / f"c{suffix}")
    load_checkpoint(model := network(), tmp_path / f"c{suffix}")
    assert torch.equal(model.state_dict()["0.weight"], state["0.weight"])


def test_safetensors_of_any_name(tmp_path: Path) -> None:
    state = dict(network().state_dict())
    save_file(state, tmp_path / "weights.bin")
    load_checkpoint(model := network(), tmp_path / "weights.bin")
    assert torch.equal(model.state_dict()["0.weight"], state["0.weight"])


@pytest.mark.parametrize(
    ("key", "is_averaged"),
    [("model", False), ("ema.model", True), ("ema", True), ("flat.ema_model", True), ("flat.online", False)],
)
def test_a_key_decides(key: str, is_averaged: bool, tmp_path: Path) -> None:
    state = dict(network().state_dict())
    other = averaged(state)
    flat = prefixed("online.", state) | prefixed("ema_model.", other)
    torch.save({"model": state, "ema": {"model": other}, "flat": flat}, tmp_path / "c.pt")
    model = network()
    if key == "model":
        load_checkpoint(model, tmp_path / "c.pt", key)
    else:
        with pytest.warns(InputNote):
            load_checkpoint(model, tmp_path / "c.pt", key)
    assert torch.equal(model.state_dict()["0.weight"], (other if is_averaged else state)["0.weight"])


def test_an_unknown_key_names_the_near_ones(tmp_path: Path) -> None:
    torch.save({"model_ema": network().state_dict()}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="checkpoint_key='model_emma'; did you mean 'model_ema'"):
        load_checkpoint(network(), tmp_path / "c.pt", "model_emma")


# -------------------------------------------------------------------- nothing is run


class Calls:
    """Unpickled by calling a function with arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def marking(path: Path) -> list[Any]:
    """Objects each of which would make a file if it were unpickled in the ordinary way."""
    return [
        Calls(os.mkdir, str(path)),
        Calls(pathlib.Path(path).touch),
        Calls(eval, f"open({str(path)!r}, 'w')"),
        Calls(exec, f"open({str(path)!r}, 'w')"),
        Calls(np.save, str(path), 1),
        Calls(torch.save, 1, str(path)),
    ]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("is_new", [True, False], ids=["zip", "before torch 1.6"])
def test_a_hostile_file_runs_nothing(number: int, is_new: bool, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "c.pt"
    content = {"model": network().state_dict(), "args": marking(mark)[number]}
    torch.save(content, path, _use_new_zipfile_serialization=is_new)
    modules = set(sys.modules)
    try:
        load_checkpoint(network(), path)
    except InputError as error:
        assert "refused" in str(error)  # noqa: PT017 (both are allowed, and nothing else)
    assert not mark.exists()
    assert not list(tmp_path.glob("mark*"))
    assert "this" not in set(sys.modules) - modules


def test_a_module_named_in_a_file_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostile_module.py").write_text("class Kind:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import hostile_module  # pyright: ignore[reportMissingImports] made above

    torch.save({"model": network().state_dict(), "x": hostile_module.Kind()}, tmp_path / "c.pt")
    (tmp_path / "hostile_module.py").write_text("raise SystemExit\n")
    monkeypatch.delitem(sys.modules, "hostile_module")
    load_checkpoint(network(), tmp_path / "c.pt")
    assert "hostile_module" not in sys.modules
