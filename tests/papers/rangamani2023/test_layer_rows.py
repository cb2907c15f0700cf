"""Recalibrated batch norm, collapsed layers, and every claim about layers on rows that show it and on rows that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from collapselab import measure
from collapselab.data import DataSplits, Split
from collapselab.experiments.claims import judge_claims
from collapselab.frames import rows_where
from collapselab.models import MLP
from collapselab.papers.rangamani2023 import layer_charts, layer_rows
from collapselab.papers.rangamani2023.layer_claims import CLAIMS
from collapselab.papers.rangamani2023.layer_rows import RECALIBRATED, RUNNING, _placed, recalibrate
from collapselab.papers.rangamani2023.no_collapse import EXPERIMENT as NO_COLLAPSE
from collapselab.papers.rangamani2023.properties import PROPERTIES, along_training, collapse_profile
from collapselab.probes import Profile, profile
from helpers import assert_close

DEPTHS, CLASSES = 6, 10
POOLED, BY_CLASS = layer_rows._POOLED, layer_rows._BY_CLASS
BLOCKS = ("conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2", "fc")
# Share, distance to a simplex, alignment, spread and rank of the weight, agreement, stable rank: layers 3 to 5 are collapsed.
GOOD: dict[str, list[float]] = {
    "normalized_within": [0.8, 0.6, 0.4, 0.15, 0.1, 0.05],
    "etf_distance": [1.0, 0.9, 0.8, 0.3, 0.2, 0.1],
    "alignment": [0.2, 0.3, 0.4, 0.8, 0.9, 0.95],
    "weight_top_spread": [0.5, 0.4, 0.3, 0.05, 0.04, 0.03],
    "weight_stable_rank": [90.0, 80.0, 70.0, 20.0, 15.0, 9.0],
    "test_ncc_agreement": [0.5, 0.7, 0.9, 0.97, 0.98, 0.99],
    "stable_rank": [3.0, 9.0, 12.0, 8.0, 4.0, 2.0],
    "stable_rank_per_class": [2.0, 5.0, 6.0, 4.0, 3.0, 1.0],
    "self_duality": [np.nan] * 5 + [0.2],
    "singular_value_1": [1.0] * 6,
    "singular_value_9": [0.9] * 6,
    "singular_value_11": [0.85, 0.85, 0.85, 0.4, 0.4, 0.9],
}  # fmt: skip


def wide() -> tuple[nn.Sequential, DataSplits, Profile]:
    """A network with a layer of more features than samples, of which `scatter="auto"` keeps a sketch; its profile."""
    torch.manual_seed(0)
    labels = torch.arange(1100) % 3
    split = Split(torch.randn(1100, 5) + labels[:, None], labels)
    model = nn.Sequential(nn.Linear(5, 1200), nn.ReLU(), nn.Linear(1200, 4), nn.ReLU(), nn.Linear(4, 3))
    data = DataSplits("made-up", 3, split, split)
    return model, data, profile(model, split.batches(1000), metrics=["normalized_within"])


def test_wide_layers_are_measured_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, both = wide()
    found = [layer_rows._of_train(model, data, both.layers, names) for names in (POOLED, BY_CLASS)]
    monkeypatch.setattr(layer_rows, "_MOST_BYTES", 8 * 5**2 + 8 * 4**2)  # both narrow layers
    sketched = [layer_rows._of_train(model, data, both.layers, names) for names in (POOLED, BY_CLASS)]
    assert sketched[0]["2"]["fuzziness"] is None
    features = model[:2](data.train.inputs).detach()
    of_one = measure(features, data.train.labels, metrics=[*POOLED, *BY_CLASS])
    for names, whole in zip((POOLED, BY_CLASS), found, strict=True):
        for name in names:
            assert_close(whole["2"][name], of_one[name], rel=1e-6, why="float32 features of other batches")
            for layer in ("0", "4"):
                assert sketched[names is BY_CLASS][layer] == whole[layer]


def test_layers_that_fit_together_are_measured_together(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, both = wide()
    assert list(layer_rows._groups(both.layers)) == [("full", ["0", "2", "4"])]
    for most, groups in {
        8 * 1200**2: [("full", ["0"]), ("full", ["2"]), ("full", ["4"])],
        8 * 1200**2 - 1: [("full", ["0", "4"]), ("sketch", ["2"])],
        1: [("sketch", ["0", "2", "4"])],
    }.items():
        monkeypatch.setattr(layer_rows, "_MOST_BYTES", most)
        assert list(layer_rows._groups(both.layers)) == groups


def rows_of(
    end: dict[str, list[float]] = GOOD, seeds: int = 3, layers: tuple[str, ...] = (), **labels: Any
) -> pd.DataFrame:
    """Rows of a network at initialisation, where every layer is as the first at the end, and at the end."""
    parts = []
    for seed in range(seeds):
        for norms in (RUNNING, RECALIBRATED):
            for step in (0, 100):
                part = pd.DataFrame(
                    {name: values if step else values[:1] * DEPTHS for name, values in end.items()}
                )
                part = part.assign(
                    depth=range(DEPTHS),
                    layer=layers or [f"layers.{depth}" for depth in range(DEPTHS)],
                    step=step,
                    norms=norms,
                )
                part["etf_distance"] *= 1 + 0.01 * seed
                parts.append(part.assign(seed=seed))
    rows = pd.concat([_placed(part) for _, part in pd.concat(parts).groupby("seed")], ignore_index=True)
    ends = {
        "train_accuracy": rows["is_last"].map({True: 1.0, False: np.nan}),
        "test_accuracy": 0.9,
        "dim": [99 if depth == 0 else 50 for depth in rows["depth"]],
    }
    fixed = {
        "job": "mnist-mlp",
        "dataset": "mnist",
        "model": "mlp",
        "ended": "steps",
        "num_classes": CLASSES,
        "test_memory_recall": 0.9,
    }
    return rows.assign(**ends, **fixed | labels)


def changed(name: str, values: list[float]) -> pd.DataFrame:
    return rows_of(GOOD | {name: values})


def verdicts(rows: pd.DataFrame, *ids: str) -> dict[str, str]:
    claims = [claim for claim in CLAIMS if not ids or claim.id in ids]
    return {one.id: one.verdict for one in judge_claims(claims, rows, "a paper")}


def test_every_claim_holds_of_a_network_that_is_as_the_paper_says() -> None:
    found = verdicts(rows_of())
    assert found.pop("before-additions") == "inconclusive"  # no ResNet here
    assert set(found.values()) == {"holds"}, found


@pytest.mark.parametrize(
    ("id", "column", "values"),
    [
        ("collapsed-layers", "normalized_within", [0.8, 0.6, 0.4, 0.3, 0.25, 0.05]),
        ("share-by-depth", "normalized_within", [0.1, 0.2, 0.4, 0.5, 0.6, 0.7]),
        ("simplex-by-layer", "etf_distance", [1.0, 0.1, 0.1, 0.3, 0.3, 0.3]),
        ("simplex-by-training", "etf_distance", [0.05, 0.9, 0.8, 0.3, 0.2, 0.1]),
        ("alignment-by-layer", "alignment", [0.2, 0.9, 0.9, 0.8, 0.7, 0.6]),
        ("alignment-by-training", "alignment", [0.9, 0.3, 0.4, 0.8, 0.9, 0.95]),
        ("equal-singular-values", "weight_top_spread", [0.5, 0.4, 0.3, 0.2, 0.2, 0.01]),
        ("low-rank-weights", "weight_stable_rank", [90.0, 8.0, 8.0, 20.0, 15.0, 1.0]),
        ("nearest-class-mean", "test_ncc_agreement", [0.5, 0.7, 0.9, 0.97, 0.9, 0.99]),
        ("nearest-class-mean-by-layer", "test_ncc_agreement", [0.5, 0.99, 0.99, 0.97, 0.97, 0.97]),
        ("leading-singular-values", "singular_value_11", [0.4, 0.4, 0.4, 0.85, 0.85, 0.1]),
        ("hunchback", "stable_rank_per_class", [12.0, 9.0, 9.0, 8.0, 4.0, 2.0]),
        ("hunchback", "stable_rank_per_class", [3.0, 5.0, 6.0, 7.0, 8.0, 9.0]),
        ("hunchback-pooled", "stable_rank", [12.0, 9.0, 9.0, 8.0, 4.0, 2.0]),
        ("associative-memory", "self_duality", [np.nan] * 5 + [0.8]),
    ],
)  # fmt: skip
def test_every_claim_can_fail(id: str, column: str, values: list[float]) -> None:
    assert verdicts(changed(column, values), id)[id] == "fails"


def test_without_collapsed_layers_nothing_is_asked_about_them() -> None:
    found = verdicts(changed("normalized_within", [0.8, 0.6, 0.5, 0.4, 0.3, 0.3]))
    assert found["collapsed-layers"] == "fails"
    for id in ("simplex-by-layer", "alignment-by-training", "equal-singular-values", "associative-memory"):
        assert found[id] == "inconclusive"


def test_nothing_is_asked_about_ranks_that_are_not_known() -> None:
    rows = changed("stable_rank_per_class", [np.nan, 5.0, 6.0, 4.0, 3.0, 1.0])
    (judged,) = [one for one in judge_claims(CLAIMS, rows, paper="", where="") if one.id == "hunchback"]
    assert (judged.verdict, judged.is_asked) == ("inconclusive", False)


def test_a_bump_ends_the_collapsed_layers_before_it() -> None:
    """The first collapsed layer is the first from which on all are: a layer before a bump is none."""
    shares = [0.8, 0.19, 0.15, 0.3, 0.1, 0.05]
    rows = changed("normalized_within", shares)
    end = rows_where(rows, step=100, norms=RECALIBRATED, seed=0).sort_values("depth")
    assert end["is_collapsed"].tolist() == [False] * 4 + [True] * 2


def test_only_layers_of_equal_width_are_compared() -> None:
    """The pixels are far from a simplex, but no layer of the network."""
    rows = changed("etf_distance", [100.0, 0.1, 0.1, 0.3, 0.3, 0.3])
    assert verdicts(rows, "simplex-by-layer")["simplex-by-layer"] == "fails"
    other = rows.assign(dim=rows["depth"])  # no two layers are equally wide
    assert verdicts(other, "simplex-by-layer")["simplex-by-layer"] == "inconclusive"


@pytest.mark.parametrize(("inside", "expected"), [(0.2, "holds"), (0.9, "fails")])
def test_blocks_are_compared_within_themselves(inside: float, expected: str) -> None:
    """The second block is aligned less than the first in both of its layers."""
    values = (
        [0.1, inside, inside + 0.3, 0.1, 0.4, 0.9]
        if expected == "holds"
        else [0.9, inside, 0.5, 0.8, 0.3, 0.1]
    )
    rows = rows_of(GOOD | {"alignment": values}, layers=BLOCKS, model="resnet18-narrow")
    assert verdicts(rows, "before-additions")["before-additions"] == expected


def test_claims_are_judged_with_recalibrated_batch_norm() -> None:
    bad = changed("normalized_within", [0.8, 0.6, 0.4, 0.3, 0.25, 0.05])
    rows = pd.concat(
        [rows_where(bad, norms=RUNNING), rows_where(rows_of(), norms=RECALIBRATED)], ignore_index=True
    )
    assert verdicts(rows, "collapsed-layers")["collapsed-layers"] == "holds"


@pytest.mark.parametrize(
    ("shares", "expected"),
    [([0.8, 0.6, 0.5, 0.4, 0.3, 0.1], "holds"), ([0.8, 0.6, 0.5, 0.4, 0.1, 0.1], "fails")],
)
def test_no_intermediate_collapse(shares: list[float], expected: str) -> None:
    (judged,) = judge_claims(NO_COLLAPSE.claims, changed("normalized_within", shares), "a paper")
    assert judged.verdict == expected
    both = pd.concat([changed("normalized_within", shares), rows_of(model="another", job="another")])
    (judged,) = judge_claims(NO_COLLAPSE.claims, both, "a paper")
    assert judged.verdict == expected, "one setting is enough"


# ---------------------------------------------------------------- batch norm


def test_recalibrated_batch_norm_is_that_of_the_train_set() -> None:
    """With one batch, a network in evaluation mode computes what it computes of that batch in training mode."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(300, 20) * 3 + 1, torch.arange(300) % 3
    data = DataSplits("made-up", 3, Split(inputs, labels), Split(inputs, labels))
    model = MLP(20, 3, width=16, depth=3)
    stale = model.eval()(inputs)
    recalibrate(model, data)
    now = model.eval()(inputs)
    expected = model.train()(inputs)
    # Running variances are unbiased: n/(n-1) of those of the batch.
    assert_close(now.detach(), expected.detach(), rel=2e-2, why="three factors of 300/299, float32")
    assert (stale - expected).abs().max() > 0.1 * expected.abs().max(), "what was to be corrected"


# ---------------------------------------------------------------- charts


def test_figures_have_a_column_per_network_and_its_data_sets_below_each_other() -> None:
    more: list[Callable[[], pd.DataFrame]] = [
        rows_of,
        lambda: rows_of(dataset="cifar10", job="cifar10-mlp"),
        lambda: rows_of(dataset="cifar10", model="convnet", job="cifar10-convnet"),
        lambda: rows_of(dataset="svhn", model="convnet", job="svhn-convnet"),
    ]
    names = ("within_trace", "between_trace", "mean_cosine_gap", "equiangularity", "equinorm", "alignment_random", "test_ncc_accuracy", "fuzziness",
             "stable_rank_published", "train_loss", "separation_rho", "separation_r_squared",
             *(f"singular_value_{rank}" for rank in (2, 3, 4, 5, 6, 7, 8, 10, 12, 20)))  # fmt: skip
    rows = pd.concat([make() for make in more], ignore_index=True).assign(**dict.fromkeys(names, 0.5))
    for make in (*PROPERTIES, collapse_profile):
        charts = make(rows)
        assert [chart.id for chart in charts] == [make.id, make.appendix]
        height = len(make.strips)
        places = {panel.title: panel.place for panel in charts[0].panels if panel.title}
        assert places == {
            "MLP on MNIST": (0, 0),
            "MLP on CIFAR-10": (height, 0),
            "plain network on CIFAR-10": (0, 1),
        }
        assert {panel.title for panel in charts[1].panels if panel.title} == {"plain network on SVHN"}
        assert len({panel.place for panel in charts[0].panels}) == len(charts[0].panels)
        for panel in charts[0].panels:
            assert panel.series, panel.subtitle
            assert [mark.at for mark in panel.marks if mark.axis == "x"] == [3.0], "the first collapsed layer"
    assert len(along_training(rows)) == 2


def test_lines_along_training_are_means_and_the_last_one_has_every_seed() -> None:
    rows = rows_where(rows_of(), norms=RECALIBRATED)
    strip = layer_charts.Strip(
        layer_charts.Axis("value"), (layer_charts.Quantity("etf_distance", "", layer_charts.Look("#000000")),)
    )
    end, start = layer_charts._lines(strip, rows)
    assert (end.legend, start.legend) == ("end of training", "initialisation")
    assert len(end.points) == 3 * DEPTHS
    assert_close(start.points["y"].tolist(), [1.01] * DEPTHS, rel=1e-12, why="mean of 1, 1.01, 1.02")
