"""Tokens as samples: a small GPT-2 with next-token labels, padding, and a vocabulary that the data do not fill."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from probe_networks import assert_numbers, read_slowly, seeded
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.probes import Profile, profile
from oracles import Oracle, nearest

VOCABULARY, TOKENS, USED = 3001, 8, 60

transformers = pytest.importorskip("transformers")


@cache
def model() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=TOKENS,
        n_embd=12,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return seeded(transformers.GPT2LMHeadModel, config)


def text(num: int = 70, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Token numbers out of every fiftieth, and the next token of each; of short lines the rest is padding."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(0, USED, (num, TOKENS + 1), generator=generator) * 50 + 7
    lengths = torch.randint(3, TOKENS + 1, (num, 1), generator=generator)
    labels = numbers[:, 1:].clone()
    labels[torch.arange(TOKENS) >= lengths] = -100
    return numbers[:, :-1], labels


def loader(size: int = 16, seed: int = 0) -> list[dict[str, Tensor]]:
    ids, labels = text(seed=seed)
    return [{"input_ids": i, "labels": y} for i, y in zip(ids.split(size), labels.split(size), strict=True)]


@cache
def found() -> Profile:
    counts = torch.bincount(text()[1][text()[1] >= 0], minlength=VOCABULARY)
    return profile(model(), loader(), loader(7, seed=1), class_counts=counts)


def rows_of(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and decisions of the tokens that count, in float64."""
    features, scores = read_slowly(model(), loader(seed=seed), name)
    labels = text(seed=seed)[1].flatten()
    kept = labels >= 0
    return (
        features.flatten(0, 1)[kept].numpy(),
        labels[kept].numpy(),
        scores.flatten(0, 1)[kept].argmax(1).numpy(),
    )


def test_tokens_are_samples_and_only_classes_that_occur_count() -> None:
    labels = text()[1]
    assert found().num_samples["train"] == int((labels >= 0).sum()) < labels.numel()
    assert found().classes == tuple(range(7, 7 + 50 * USED, 50))
    assert found().layers[-1].name == "lm_head"
    assert found().weighting == "balanced"
    assert all(layer.shape == (layer.dim,) for layer in found().layers)


@pytest.mark.parametrize("name", ["transformer.h.1.mlp.c_proj", "lm_head"])
def test_counts_means_and_collapse_of_a_layer_equal_a_slow_computation(name: str) -> None:
    layer = found()[name]
    features, labels, decided = rows_of(name)
    weight = model().get_parameter(f"{name}.weight").detach().numpy()
    oracle = Oracle(features, labels, weight=weight if name == "lm_head" else weight.T)
    split = layer.splits["train"]
    assert split.counts.tolist() == oracle.counts.tolist()
    assert split.class_means is not None
    assert split.class_variances is not None
    assert np.abs(split.class_means.numpy() - oracle.means).max() <= 1e-13 * np.abs(oracle.means).max()
    assert np.abs(split.class_variances.numpy() - oracle.class_variances).max() <= 1e-12
    for metric in (
        "within_trace", "between_trace", "normalized_within", "fuzziness", "vci", "cosine_similarity", "cdnv",
        "equinorm", "equiangularity", "max_angle_gap", "etf_distance", "alignment", "weight_stable_rank",
        "weight_singular_spread", "stable_rank", "components_95", "train_variance",
    ):  # fmt: skip
        assert split.metrics[metric] == pytest.approx(getattr(oracle, metric)(), rel=1e-9), metric
    centres = oracle.classes[nearest(features, oracle.means)]
    assert split.metrics["ncc_agreement"] == pytest.approx(np.mean(centres == decided), abs=1e-15)
    assert split.metrics["ncc_accuracy"] == pytest.approx(np.mean(centres == labels), abs=1e-15)


def test_nearest_centres_of_test_tokens_are_the_train_means() -> None:
    features, labels, _ = rows_of("lm_head")
    oracle = Oracle(features, labels)
    others, their_labels, _ = rows_of("lm_head", seed=1)
    centres = oracle.classes[nearest(others, oracle.means)]
    assert found()["lm_head"].test["ncc_accuracy"] == pytest.approx(
        np.mean(centres == their_labels), abs=1e-15
    )


def test_all_layers_have_numbers() -> None:
    for layer in found().layers:
        assert_numbers(layer)
        assert layer.train["self_duality"] is None
    assert any(f"{VOCABULARY} outputs for {USED} classes" in warning for warning in found().warnings)


def test_without_counts_tokens_are_weighted_by_sample_where_scatter_is_pooled(monkeypatch: Any) -> None:
    monkeypatch.setattr("collapselab.probes.plan.MAX_PER_CLASS_ENTRIES", 0)
    layer = profile(model(), loader(), layers="lm_head")["lm_head"]
    features, labels, _ = rows_of("lm_head")
    oracle = Oracle(features, labels, "sample")
    assert layer.scatter == "full"
    for metric in ("within_trace", "vci", "stable_rank"):
        assert layer.train[metric] == pytest.approx(getattr(oracle, metric)(), rel=1e-9), metric


def test_batches_of_tokens_may_differ_in_length() -> None:
    ids, labels = text()
    short = [
        {"input_ids": ids[:30], "labels": labels[:30]},
        {"input_ids": ids[30:, :5], "labels": labels[30:, :5]},
    ]
    layer = profile(model(), short, layers="lm_head")["lm_head"]
    kept = int((labels[:30] >= 0).sum() + (labels[30:, :5] >= 0).sum())
    assert int(layer.splits["train"].counts.sum()) == kept


def test_an_embedding_reads_token_numbers_which_are_no_features() -> None:
    with pytest.raises(InputError, match=r"wte reads .* not one row of features per label"):
        profile(model(), loader(), layers="transformer.wte")
