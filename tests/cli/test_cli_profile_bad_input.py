"""`collapselab profile` used wrongly: each mistake is one line that says what, where and what to do."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from cli_runner import Outcome, assert_refused, run
from collapselab import storage

NETS = """
import torch
from torch import nn

def small(num_classes, input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(input_shape).numel(), 6), nn.ReLU(), nn.Linear(6, num_classes))

def of_seven():
    return nn.Linear(7, 3)

class Picky(nn.Linear):
    def forward(self, x):
        if len(x) < 10:
            raise ValueError("too\\nfew")
        return super().forward(x)

def picky():
    return Picky(5, 3)

class Hungry(nn.Linear):
    def forward(self, x):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

def hungry():
    return Hungry(5, 3)

def raising(num_classes):
    raise KeyError("no\\nluck")

def undefined():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 3))
    nn.init.constant_(model[0].bias, float("nan"))
    return model

def number():
    return 3

constant = 3
"""
LABELS = np.arange(24) % 3


def network() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))


def with_nan(layer: str) -> dict[str, Tensor]:
    state = dict(network().state_dict())
    return state | {layer: torch.full_like(state[layer], torch.nan)}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that is right or wrong in a file."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "nets.py").write_text(NETS)
    (folder / "broken.py").write_text("x = 1\nimport no_such_package\n")
    (folder / "syntax.py").write_text("def small(:\n")
    rng = np.random.default_rng(0)

    def save(name: str, labels: Any, shape: tuple[int, ...] = (5,)) -> None:
        np.savez(folder / name, inputs=rng.normal(size=(len(LABELS), *shape)), **labels)

    save("data.npz", {"labels": LABELS})
    save("gaps.npz", {"labels": LABELS * 2})
    save("unknown.npz", {"labels": LABELS + 1})
    save("single.npz", {"labels": LABELS * 0})
    save("unlabelled.npz", {})
    save("four.npz", {"labels": LABELS}, (4,))
    save("testonly.npz", {"test_labels": LABELS})
    for name, sizes in (("images", (8, 8)),):
        for label in ("cat", "dog"):
            (folder / name / label).mkdir(parents=True)
            for row, size in enumerate(sizes):
                Image.new("RGB", (size, 8), (9 * row, 0, 0)).save(folder / name / label / f"{row}.png")
    (folder / "images2" / "dgo").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "images2" / "dgo" / "0.png")
    (folder / "empty").mkdir()
    state = dict(network().state_dict())
    torch.save({name.replace("t", "T"): value for name, value in state.items()}, folder / "keys.pt")
    save_file(state | {"1.weight": torch.zeros(6, 4)}, folder / "shapes.safetensors")
    save_file(with_nan("1.weight"), folder / "nan-first.safetensors")
    save_file(with_nan("3.weight"), folder / "nan-last.safetensors")
    torch.save({"epoch": 3}, folder / "nothing.pt")
    (folder / "pickle.pt").write_bytes(pickle.dumps({"weights": folder}))
    for name in ("keys.pt", "shapes.safetensors"):
        (folder / f"cut-{name}").write_bytes((folder / name).read_bytes()[:90])
    (folder / "against.json").write_text('{"layers": [{}], "model": "x", "first_collapsed_layer": null}')
    return folder


def attempt(here: Path, *arguments: object) -> Outcome:
    """`{}` stands for the folder of files."""
    return run("profile", *(str(argument).replace("{}", str(here)) for argument in arguments))


NET, DATA = "{}/nets.py:small", "{}/data.npz"

# name: (arguments, what the line says)
CASES: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "no data": ((NET,), ("--dataset", "--help")),
    "no model": (("--dataset", DATA), ("MODEL", "--help")),
    "a misspelt model": (("mlpp", "--dataset", DATA), ("unknown model 'mlpp'; did you mean 'mlp'?",)),
    "a model that does not exist": (("zzz", "--dataset", DATA), ("unknown model 'zzz'", "torchvision/NAME")),
    "a model file that does not exist": (("{}/net.py:small", "--dataset", DATA), ("net.py: no such file",)),
    "a model file without function": (("{}/nets.py", "--dataset", DATA), ("names no function", "small")),
    "a misspelt function": (("{}/nets.py:smal", "--dataset", DATA), ("no function 'smal'; did you mean 'small'?",)),
    "a function that is none": (("{}/nets.py:constant", "--dataset", DATA), ("constant is a int",)),
    "a function that raises": (("{}/nets.py:raising", "--dataset", DATA), ("nets.py, line 28: KeyError", "no\\nluck")),
    "a function that returns no module": (("{}/nets.py:number", "--dataset", DATA), ("returns a int", "torch.nn.Module")),
    "a model file that cannot be imported": (("{}/broken.py:small", "--dataset", DATA), ("broken.py, line 2: ModuleNotFoundError",)),
    "a model file that is not Python": (("{}/syntax.py:small", "--dataset", DATA), ("syntax.py, line 1: SyntaxError",)),
    "a model for other inputs": (("{}/nets.py:of_seven", "--dataset", DATA), ("train, batch 0: RuntimeError: ", "(24x5 and 7x3)", "(the model, Linear, was given (24, 5))", "takes such inputs")),
    "a model that refuses the last batch": (("{}/nets.py:picky", "--dataset", DATA, "--batch-size", 10), ("train, batch 2: nets.py, line 14: ValueError: too few", "Picky, was given (4, 5)")),
    "a model for images": (("convnet", "--dataset", DATA), ("convnet: takes images, but inputs have shape (5,)",)),
    "a model that needs too much memory": (("{}/nets.py:hungry", "--dataset", DATA), ("out of memory (CUDA out of memory. Tried to allocate 9 GiB)",)),
    "a misspelt data set": ((NET, "--dataset", "digit"), ("unknown data set 'digit'; did you mean 'digits'", "names: digits, mnist, fashion_mnist, cifar10, cifar100, svhn, stl10, imagenet, oxford_pets", "A path or a hub id")),
    "a misspelt data file": ((NET, "--dataset", "{}/dta.npz"), ("no such file or folder; did you mean 'data.npz'",)),
    "data in a folder that does not exist": ((NET, "--dataset", "{}/no/data"), ("is not a folder either", "check the path")),
    "an empty folder": ((NET, "--dataset", "{}/empty"), ("no class folders, tables, arrays or downloads",)),
    "a file of no known kind": ((NET, "--dataset", "{}/nets.py"), ("not a kind of data set",)),
    "arrays without labels": ((NET, "--dataset", "{}/unlabelled.npz"), ("holds inputs", "'labels'")),
    "test data alone": ((NET, "--dataset", "{}/testonly.npz"), ("has no train split, only test",)),
    "one class": ((NET, "--dataset", "{}/single.npz"), ("all labels are 0", "at least two classes")),
    "misspelt test data": ((NET, "--dataset", DATA, "--test-dataset", "{}/dat.npz"), ("did you mean 'data.npz'",)),
    "test labels that train lacks": ((NET, "--dataset", DATA, "--test-dataset", "{}/unknown.npz"), ("--test-dataset", "8 samples", "such as '3'", "remove these samples")),
    "test labels without the gaps of train": ((NET, "--dataset", "{}/gaps.npz", "--test-dataset", DATA), ("8 samples", "such as '1'")),
    "a misspelt class of test data": ((NET, "--dataset", "{}/images", "--test-dataset", "{}/images2"), ("1 samples", "such as 'dgo'", "did you mean 'dog'?")),
    "test data of one class": ((NET, "--dataset", DATA, "--test-dataset", "{}/single.npz"), ("test: all labels are 0",)),
    "test data of another shape": ((NET, "--dataset", DATA, "--test-dataset", "{}/four.npz"), ("--test-dataset", "shape (4,)", "have (5,)")),
    "a checkpoint that does not exist": ((NET, "--dataset", DATA, "--checkpoint", "{}/none.pt"), ("none.pt: no such file",)),
    "a checkpoint by another name": ((NET, "--dataset", DATA, "--checkpoint", "{}/nets.py"), ("no file of weights",)),
    "half a .pt": ((NET, "--dataset", DATA, "--checkpoint", "{}/cut-keys.pt"), ("cut-keys.pt: ", "damaged")),
    "half a .safetensors": ((NET, "--dataset", DATA, "--checkpoint", "{}/cut-shapes.safetensors"), ("cannot be read, damaged or cut off",)),
    "a pickle": ((NET, "--dataset", DATA, "--checkpoint", "{}/pickle.pt"), ("pickle.pt: cannot be read", "no file of weights")),
    "a checkpoint without weights": ((NET, "--dataset", DATA, "--checkpoint", "{}/nothing.pt"), ("no state dict but epoch",)),
    "a checkpoint with other keys": ((NET, "--dataset", DATA, "--checkpoint", "{}/keys.pt"), ("2 missing (1.weight", "2 unexpected (1.weighT")),
    "a checkpoint with other shapes": ((NET, "--dataset", DATA, "--checkpoint", "{}/shapes.safetensors"), ("1.weight (6, 4) where the model has (6, 5)",)),
    "NaN in the weights": ((NET, "--dataset", DATA, "--checkpoint", "{}/nan-first.safetensors"), ("nan-first.safetensors: 1.weight has 30 NaN", "earlier checkpoint")),
    "NaN in the last weights": ((NET, "--dataset", DATA, "--checkpoint", "{}/nan-last.safetensors"), ("3.weight has 18 NaN",)),
    "NaN inside the network": (("{}/nets.py:undefined", "--dataset", DATA), ("train, batch 0, layer 1: ", "NaN")),
    "layers that match nothing": ((NET, "--dataset", DATA, "--layers", "layer.*"), ("--layers layer.* matches no module; known: 1, 3",)),
    "a misspelt layer": (("mlp", "--dataset", DATA, "--layers", "layrs.0"), ("--layers layrs.0 matches no module; did you mean 'layers.0'",)),
    "an unknown reduction": ((NET, "--dataset", DATA, "--reduce", "max"), ("unknown reduction 'max'; use auto, flatten",)),
    "an unknown scatter": ((NET, "--dataset", DATA, "--scatter", "half"), ("--scatter", "'sketch'")),
    "an epsilon of 0": ((NET, "--dataset", DATA, "--epsilon", 0), ("--epsilon 0.0: give a share",)),
    "an epsilon of 2": ((NET, "--dataset", DATA, "--epsilon", 2), ("--epsilon 2.0: give a share",)),
    "an epsilon of NaN": ((NET, "--dataset", DATA, "--epsilon", "nan"), ("--epsilon nan",)),
    "a batch of nothing": ((NET, "--dataset", DATA, "--batch-size", 0), ("--batch-size 0: give at least 1",)),
    "a limit of 0": ((NET, "--dataset", DATA, "--limit", 0), ("--limit 0 leaves no samples",)),
    "a limit of one class": ((NET, "--dataset", DATA, "--limit", 1), ("--limit 1 leaves classes out: there are 3; give at least 6",)),
    "data without a name, as it used to be": ((NET, "--data", "{}/data.npz"), ("--data", "NAME=PATH", "--dataset")),
    "a data set known by another name": ((NET, "--dataset", DATA, "--data", "mnits={}/data.npz"), ("--data: ", "did you mean 'mnist'")),
    "test data by the former option": ((NET, "--dataset", DATA, "--test-data", DATA), ("--test-data", "is now --test-dataset")),
    "a name and its path": ((NET, "--dataset", "mnist={}/data.npz"), ("one data set is expected here", "--data mnist=")),
    "an output that is a folder": ((NET, "--dataset", DATA, "--output", "{}"), ("--output", "is a folder")),
    "a negative seed": ((NET, "--dataset", DATA, "--seed", -1), ("--seed", "--help")),
    "a device that nobody has": ((NET, "--dataset", DATA, "--device", "cuda:99"), ("--device cuda:99: cannot be used", "use cpu")),
    "a device without a name": ((NET, "--dataset", DATA, "--device", "quantum"), ("--device quantum: cannot be used",)),
    "a device without numbers": ((NET, "--dataset", DATA, "--device", "meta"), ("--device meta: the meta device stores no data",)),
    "against nothing": ((NET, "--dataset", DATA, "--against", "{}/no", "--out", "{}/new"), ("--against", "no: no such file", "earlier profile")),
    "against a folder of something else": ((NET, "--dataset", DATA, "--against", "{}/empty", "--out", "{}/new"), ("profile.json: no such file",)),
    "against what is no profile": ((NET, "--dataset", DATA, "--against", "{}/nets.py", "--out", "{}/new"), ("--against", "nets.py: not a profile")),
    "against what looks like a profile": ((NET, "--dataset", DATA, "--against", "{}/against.json", "--out", "{}/new"), ("not a profile", "'name'")),
    "against without a page to draw on": ((NET, "--dataset", DATA, "--against", "{}/against.json"), ("--against", "needs --out, whose page shows both profiles")),
    "out is a file": ((NET, "--dataset", DATA, "--out", "{}/data.npz"), ("--out", "cannot be created (File exists)")),
    "out is below a file": ((NET, "--dataset", DATA, "--out", "{}/data.npz/x"), ("cannot be created (Not a directory)",)),
    "out holds something else": ((NET, "--dataset", DATA, "--out", "{}"), ("contains something other than a profile",)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_mistakes_are_refused_in_one_line(here: Path, case: str) -> None:
    arguments, fragments = CASES[case]
    outcome = attempt(here, *arguments)
    assert_refused(outcome, *fragments)
    assert len(outcome.err) < 600


def test_a_folder_that_may_not_be_written_is_refused_before_measuring(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collapselab.cli.profile_job.open_data_set", lambda *_, **__: pytest.fail("was read"))
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert_refused(
        attempt(here, NET, "--dataset", DATA, "--out", tmp_path), "--out", tmp_path, "no permission to write"
    )


def test_a_full_disk_is_one_line_and_leaves_the_earlier_profile(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempt(here, NET, "--dataset", DATA, "--out", tmp_path).code == 0
    before = (tmp_path / "profile.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "replace", full)
    outcome = attempt(here, NET, "--dataset", DATA, "--out", tmp_path, "--seed", 1)
    assert_refused(outcome, "--out", tmp_path, "No space left on device")
    assert (tmp_path / "profile.json").read_bytes() == before


def test_a_run_is_not_overwritten(here: Path, tmp_path: Path) -> None:
    for name in ("run.json", "report.html"):
        (tmp_path / name).write_text("{}")
    assert_refused(
        attempt(here, NET, "--dataset", DATA, "--out", tmp_path), "contains something other than a profile"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run.json"]


def test_a_checkpoint_that_would_run_code_runs_none(here: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"state_dict": network().state_dict(), "note": Payload()}, tmp_path / "c.pt")
    assert_refused(
        attempt(here, NET, "--dataset", DATA, "--checkpoint", tmp_path / "c.pt"), "calls functions"
    )
    assert not (tmp_path / "executed").exists()
