"""All three definitions on the rows of a network that is trained here, measured sample by sample."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import collapselab
from collapselab.data import load_digits
from collapselab.errors import InputError
from collapselab.metrics.generalization import Reference, labelled_variance, squared_distances_to_nearest
from collapselab.metrics.kmeans import fit_kmeans
from collapselab.models import MLP
from collapselab.papers.hui2022.definitions import judge_run
from collapselab.probes.capture import capture_inputs
from collapselab.probes.evaluating import evaluating


def _variance(features: Tensor, points: Tensor, labels: Tensor) -> float:
    """Sec. 3.1 as it is written, sample by sample."""
    within = np.mean(
        [
            float((h - points[y]).square().sum())
            for h, y in zip(features.double(), labels.tolist(), strict=True)
        ]
    )
    return float(within) / float((points - points.mean(0)).square().sum(1).mean())


@pytest.fixture(scope="module")
def trained() -> tuple[pd.DataFrame, dict[str, Reference], nn.Module]:
    """Rows of an MLP on 500 digits, 400 steps of full-batch descent; its points at the end; the network."""
    data = load_digits(500)
    torch.manual_seed(0)
    model = MLP(64, 10, width=64, depth=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3)
    measured = {0, *np.unique(np.geomspace(1, 400, 16).round().astype(int)).tolist()}
    kept: dict[int, dict[str, Tensor]] = {}
    for step in range(401):
        if step:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.train.inputs), data.train.labels).backward()
            optimizer.step()
        if step in measured:
            kept[step] = {split: _features(model, getattr(data, split).inputs) for split in ("train", "test")}
    labels = {"train": data.train.labels, "test": data.test.labels}
    means = {
        split: torch.stack([kept[400][split][labels[split] == c].double().mean(0) for c in range(10)])
        for split in labels
    }
    weak = fit_kmeans(kept[400]["test"], 10)
    assert weak is not None
    rows = []
    for step, features in kept.items():
        nearest = squared_distances_to_nearest(features["test"], weak)
        shared = {"job": "digits", "seed": 0, "step": step}
        rows.append(shared | {"layer": "layers.0", "is_last": False, "train_variance": 5.0})
        rows.append(
            shared
            | {
                "layer": "layers.4",
                "is_last": True,
                "train_variance": _variance(features["train"], means["train"], labels["train"]),
                "strong_test_variance": _variance(features["test"], means["test"], labels["test"]),
                "weak_test_variance": float(nearest.mean()) / weak.spread,
            }
        )
    references = {
        "train_variance": Reference(means["train"]),
        "strong_test_variance": Reference(means["test"]),
        "weak_test_variance": weak,
    }
    return pd.DataFrame(rows), references, model


def _features(model: MLP, inputs: Tensor) -> Tensor:
    found: list[Tensor] = []
    with evaluating(model), capture_inputs({"last": model.layers[-1]}, lambda _, rows: found.append(rows)):
        model(inputs)
    return found[0]


def test_a_trained_network_collapses_on_train_and_not_on_test(
    trained: tuple[pd.DataFrame, dict[str, Reference], nn.Module],
) -> None:
    rows, references, model = trained
    degrees = judge_run(rows, references)
    assert {name: degree.outcome for name, degree in degrees.items()} == {
        "train collapse": "collapsed",
        "weak test collapse": "not collapsed",
        "strong test collapse": "not collapsed",
    }
    assert (degrees["train collapse"].change or 0) < -10
    data = load_digits(500)
    profile = collapselab.profile(model, data.train.batches(100), data.test.batches(100))
    last = profile["layers.4"]
    for name, metrics, metric in (
        ("train collapse", last.train, "train_variance"),
        ("strong test collapse", last.test, "strong_test_variance"),
    ):
        # At T the references are the network's own; float32 features differ a little with the batch they come in.
        assert degrees[name].value == pytest.approx(metrics[metric], rel=1e-4)


def test_statistics_give_the_same_degree(
    trained: tuple[pd.DataFrame, dict[str, Reference], nn.Module],
) -> None:
    """Class means and scatters, as a run stores them, instead of samples."""
    rows, references, model = trained
    split = collapselab.profile(model, load_digits(500).train.batches(500))["layers.4"].splits["train"]
    assert split.class_means is not None
    assert split.class_variances is not None
    value = labelled_variance(
        split.counts, split.class_means, split.class_variances, references["train_variance"]
    )
    final = judge_run(rows)["train collapse"].value
    assert value == pytest.approx(final, rel=1e-6)


def test_rows_in_any_order_and_with_metrics_missing(
    trained: tuple[pd.DataFrame, dict[str, Reference], nn.Module],
) -> None:
    rows, _, _ = trained
    mixed = rows.sample(frac=1, random_state=0).drop(columns="weak_test_variance")
    expected, found = judge_run(rows), judge_run(mixed)
    for name in ("train collapse", "strong test collapse"):
        assert dataclasses.asdict(found[name]) == dataclasses.asdict(expected[name])
    assert found["weak test collapse"].outcome == "undefined"
    assert "not measured" in found["weak test collapse"].sentence


def test_rows_that_are_not_one_run(
    trained: tuple[pd.DataFrame, dict[str, Reference], nn.Module],
) -> None:
    rows, _, _ = trained
    for bad, message in (
        (pd.concat([rows, rows.assign(seed=1)]), "2 values of seed"),
        (pd.concat([rows, rows.assign(job="other")]), "2 values of job"),
        (pd.concat([rows, rows]), "a step has several rows"),
        (rows[~rows["is_last"]], "no row of the last layer"),
        (rows.drop(columns="step"), "no column 'step'"),
    ):
        with pytest.raises(InputError, match=message):
            judge_run(pd.DataFrame(bad))
    with pytest.raises(InputError, match="did you mean 'train_variance'"):
        judge_run(rows, {"train_varience": Reference(torch.eye(3))})
