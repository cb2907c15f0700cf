"""Models split over one and two processes on gloo have the numbers of the whole model in one process."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sharded_worker
from oracles import Oracle
from test_distributed import assert_same_numbers, results_by_rank

pytestmark = pytest.mark.slow
WORKER = Path(sharded_worker.__file__)


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def by_rank(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return results_by_rank(WORKER, tmp_path_factory.mktemp("ranks"), request.param)


@cache
def single(kind: str) -> dict[str, Any]:
    return sharded_worker.result(sharded_worker.NETWORKS[kind]())


@pytest.mark.parametrize("how", sharded_worker.SPLITS)
@pytest.mark.parametrize("kind", sharded_worker.NETWORKS)
def test_a_split_model_has_the_numbers_of_the_whole(
    kind: str, how: str, by_rank: list[dict[str, Any]]
) -> None:
    results = [found[f"{kind}, {how}"] for found in by_rank]
    assert all(found == results[0] for found in results)
    whole = copy.deepcopy(single(kind))
    if how == "tensor parallel" and len(results) > 1:
        # What is gathered while the network goes on is not followed back: neither to the classifier (null, with a
        # warning) nor to parallel branches.
        assert any("no layer is the classifier" in text for text in results[0]["warnings"]) or kind != "dense"
        results = copy.deepcopy(results)
        for found in (results[0], whole):
            for layer in found["layers"]:
                layer.pop("is_beside", None)
                for split in ("train", "test"):
                    layer[split].pop("self_duality", None)
            found["warnings"] = []
    assert_same_numbers(results[0], whole)


def test_weights_and_features_are_those_of_a_slow_computation(by_rank: list[dict[str, Any]]) -> None:
    model, (inputs, labels) = sharded_worker.network(), sharded_worker.samples().tensors
    with torch.no_grad():
        features = model[:4](inputs).numpy()
    weight = model.get_parameter("4.weight").detach().numpy()
    oracle = Oracle(features, labels.numpy(), weight=weight)
    for how in ("fsdp", "tensor parallel"):
        (layer,) = (layer for layer in by_rank[0][f"dense, {how}"]["layers"] if layer["name"] == "4")
        for metric in ("within_trace", "fuzziness", "alignment", "weight_stable_rank"):
            assert layer["train"][metric] == pytest.approx(getattr(oracle, metric)(), rel=1e-9), (how, metric)


def test_a_sampler_gives_each_process_its_share(by_rank: list[dict[str, Any]]) -> None:
    found = by_rank[0]["sampler"]
    assert found["num_samples"] == {"train": sharded_worker.NUM_SAMPLES, "test": 50}
    assert_same_numbers(found, single("dense"))


def test_processes_agree_on_the_labels_that_occur(by_rank: list[dict[str, Any]]) -> None:
    assert all(found["ids"] == by_rank[0]["ids"] for found in by_rank)
    found = by_rank[0]["ids"]
    assert found["classes"] == [4, 12, 70_001, 19_999_999]
    inputs, labels = sharded_worker.samples().tensors
    with torch.no_grad():
        features = sharded_worker.network()[:4](inputs).numpy()
    oracle = Oracle(features, np.array([3, 0, 2, 1])[labels.numpy()])
    (layer,) = (layer for layer in found["layers"] if layer["name"] == "0.4")
    for split in ("train", "test"):
        assert layer[split]["within_trace"] == pytest.approx(oracle.within_trace(), rel=1e-9)
        assert layer[split]["cdnv"] == pytest.approx(oracle.cdnv(), rel=1e-9)
    assert_same_numbers(found, sharded_worker.ids_by_process())


def test_measuring_changes_no_step_of_training(by_rank: list[dict[str, Any]]) -> None:
    for found in by_rank:
        plain, measured = found["trained"]
        assert plain == measured


def test_what_cannot_be_right_is_refused_in_every_process(by_rank: list[dict[str, Any]]) -> None:
    if len(by_rank) == 1:
        pytest.skip("nothing is split over one process")
    first, second = (found["refusals"] for found in by_rank)
    assert first["sampler"] == second["sampler"]
    assert "must read the same batches; give a loader without DistributedSampler" in first["sampler"]
    assert first["inner"] == "measured"
    assert (
        "1 reads other features in every process: a part of a split layer" in first["part"] == second["part"]
    )
    assert "layer 0: features contain NaN" in second["poisoned"]
    assert first["poisoned"] == f"process 1: {second['poisoned']}"
    assert first["mislabelled"] == second["mislabelled"]
    assert "the data sets of the processes have different labels" in first["mislabelled"]
