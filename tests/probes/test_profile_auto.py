"""What `reduce="auto"`, the default, chooses for the features of each layer, and `layers="last"`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from probe_networks import batches, draw, seeded
from torch import Tensor, nn

import collapselab
from collapselab import Profile, profile
from collapselab.metrics.registry import CHEAP_METRICS

LABELS = torch.arange(24) % 3


class Sequence(nn.Module):
    """A head that reads one token, or the mean of all."""

    def __init__(self, token: int | None) -> None:
        super().__init__()
        self.inner, self.head, self.token = nn.Linear(6, 8), nn.Linear(8, 3), token

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.inner(inputs).relu()
        return self.head(tokens.mean(1) if self.token is None else tokens[:, self.token])


class Maps(nn.Module):
    """Maps of 4096 and of 8192 features."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Conv2d(4, 8, 3, padding=1)
        self.large = nn.Conv2d(8, 2, 3, padding=1)
        self.head = nn.Linear(2, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.large(self.small(inputs).relu()).mean((2, 3)))


def numbers(found: Profile) -> dict[str, dict[str, object]]:
    return {layer.name: dict(layer.train) for layer in found.layers}


@pytest.mark.parametrize(("token", "name"), [(0, "token:0"), (2, "token:2"), (None, "mean")])
def test_of_sequences_the_token_that_the_head_reads_or_the_mean(token: int | None, name: str) -> None:
    model, data = seeded(Sequence, token), batches(draw(5, 6, labels=LABELS), LABELS, 12)
    found = profile(model, data)
    assert [layer.reduction for layer in found.layers] == [name, "flatten"]
    assert found.reduction == f"auto: {name} at 1 layer"
    assert f"Features: auto: {name} at 1 layer" in str(found)
    assert numbers(found) == numbers(profile(model, data, reduce=name))
    assert Profile.from_dict(found.to_dict()) == found
    assert found.to_dict()["layers"][0]["reduction"] == name


def test_large_maps_are_averaged_and_small_ones_flattened() -> None:
    model, data = seeded(Maps), batches(draw(4, 32, 32, labels=LABELS), LABELS, 12)
    found = profile(model, data)
    assert [(layer.reduction, layer.dim) for layer in found.layers] == [
        ("flatten", 4096),
        ("gap", 8),
        ("flatten", 2),
    ]
    assert found.reduction == "auto: flatten at 1 layer, gap at 1 layer"
    averaged, flat = profile(model, data, reduce="gap"), profile(model, data, reduce="flatten")
    assert flat.reduction == "flatten"
    assert flat["large"].dim == 8192
    assert numbers(found) == {
        "small": numbers(flat)["small"], "large": numbers(averaged)["large"], "head": numbers(flat)["head"]
    }  # fmt: skip


def test_nothing_is_chosen_where_features_are_rows() -> None:
    found = profile(seeded(nn.Linear, 5, 3), batches(draw(5, labels=LABELS), LABELS, 12))
    assert found.reduction == "flatten"
    assert "Features:" not in str(found)


def test_the_last_layer_alone() -> None:
    model, data = seeded(Maps), batches(draw(4, 32, 32, labels=LABELS), LABELS, 12)
    whole, last = profile(model, data), profile(model, data, layers="last")
    assert [(layer.name, layer.depth) for layer in last.layers] == [("head", 0)]
    assert last.layers[0].train == whole["head"].train


def test_only_the_passes_that_the_metrics_need_are_made() -> None:
    model, data = seeded(Maps), batches(draw(4, 32, 32, labels=LABELS), LABELS, 12)
    pieces: list[str] = []
    profile(model, data, metrics=["normalized_within"], progress=lambda what, *_: pieces.append(what))
    assert list(dict.fromkeys(pieces)) == ["train: class statistics", "train: metrics"]
    found = profile(model, data, metrics=CHEAP_METRICS, layers="last")
    assert found.layers[0].scatter == "trace"
    assert set(found.layers[0].train) == {name for name in CHEAP_METRICS if "test_" not in name}


def test_what_recipes_and_papers_measure_is_flattened_by_name() -> None:
    """Their stored numbers must not follow a default."""
    package = Path(collapselab.__file__).parent
    calls = [
        (path.name, node)
        for room in ("training", "papers", "findings", "experiments")
        for path in sorted((package / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "profile"
    ]
    assert len(calls) >= 5
    for name, call in calls:
        chosen = {one.arg: one.value for one in call.keywords}.get("reduce")
        assert isinstance(chosen, ast.Constant), f"{name}: profile() without reduce="
        assert chosen.value == "flatten"
