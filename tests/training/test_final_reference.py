"""Hui's variances of a run against the definition, from features taken the slow way."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from collapselab.data import AnySplit
from collapselab.training import Recipe, RunFolder, run_recipe
from collapselab.training.building import build_model, load_data


def _features(recipe: Recipe, folder: RunFolder, step: int, split: AnySplit, layer: int) -> np.ndarray:
    model = build_model(recipe, load_data(recipe))
    model.load_state_dict(folder.read_weights(step))
    model.eval()
    features = split.inputs.flatten(1)
    with torch.no_grad():
        for index in range(layer):
            features = model.norms[index](model.layers[index](features)).relu()  # pyright: ignore[reportIndexIssue, reportCallIssue] the MLP's lists
    return features.double().numpy()


def _variance(now: np.ndarray, centres: np.ndarray, nearest: np.ndarray) -> float:
    spread = ((centres - centres.mean(0)) ** 2).sum(1).mean()
    return float(((now - centres[nearest]) ** 2).sum(1).mean() / spread)


def _centres(features: np.ndarray) -> np.ndarray:
    fitted = KMeans(10, n_init=10, tol=0, random_state=0, max_iter=10_000).fit(features - features.mean(0))  # pyright: ignore[reportArgumentType] the stub reads only the string default
    return fitted.cluster_centers_ + features.mean(0)


@pytest.fixture(scope="module")
def finished(tiny_recipe_of_module: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("finished") / "run")
    run_recipe(tiny_recipe_of_module, folder)
    return folder


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("split", ["train", "test"])
def test_labelled_variance_is_over_the_class_means_at_the_end(
    finished: RunFolder, tiny_recipe: Recipe, split: str, layer: int
) -> None:
    data = load_data(tiny_recipe)
    samples = data.train if split == "train" else data.test
    labels = samples.labels.numpy()
    final = _features(tiny_recipe, finished, tiny_recipe.steps, samples, layer)
    centres = np.stack([final[labels == c].mean(0) for c in range(10)])
    name = "train_variance_final" if split == "train" else "strong_test_variance_final"
    for row in finished.read_final_reference():
        if row.split == split and row.depth == layer:
            now = _features(tiny_recipe, finished, row.step, samples, layer)
            # float32 features, float64 sums on both sides; class means in float32 partial sums.
            assert row.metrics[name] == pytest.approx(_variance(now, centres, labels), rel=1e-6)


def test_weak_variance_is_over_kmeans_centres_at_the_end(finished: RunFolder, tiny_recipe: Recipe) -> None:
    test = load_data(tiny_recipe).test
    final = _features(tiny_recipe, finished, tiny_recipe.steps, test, 2)
    means = _centres(final)
    for row in finished.read_final_reference():
        if "weak_test_variance_final" in row.metrics:
            now = _features(tiny_recipe, finished, row.step, test, 2)
            nearest = ((now[:, None] - means) ** 2).sum(2).argmin(1)
            # Two k-means runs from the same seed may differ in the last bits of their centres.
            assert row.metrics["weak_test_variance_final"] == pytest.approx(
                _variance(now, means, nearest), rel=1e-6
            )


def test_only_the_last_layer_has_weak_variance(finished: RunFolder) -> None:
    depths = {
        row.depth for row in finished.read_final_reference() if "weak_test_variance_final" in row.metrics
    }
    assert depths == {2}


def test_at_the_end_both_references_agree(finished: RunFolder, tiny_recipe: Recipe) -> None:
    current = {
        (row.split, row.layer): row.metrics for row in finished.read_rows() if row.step == tiny_recipe.steps
    }
    for row in finished.read_final_reference():
        if row.step == tiny_recipe.steps:
            name = "train_variance" if row.split == "train" else "strong_test_variance"
            value = current[row.split, row.layer][name]
            assert row.metrics[f"{name}_final"] == pytest.approx(value, rel=1e-12)


def test_what_is_unusual_about_the_centres_is_said(
    tiny_recipe: Recipe, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collapselab.metrics.kmeans.MAX_ROWS", 30)
    run_recipe(tiny_recipe, folder)
    sampled = ("weak_test_variance: k-means is fitted on a seeded sample of 30 of 80 samples",)
    final = folder.read_final_reference()
    assert {row.warnings for row in final if "weak_test_variance_final" in row.metrics} == {sampled}
    assert {row.warnings for row in final if "weak_test_variance_final" not in row.metrics} == {()}
    plain = [row for row in folder.read_rows() if "weak_test_variance" in row.metrics]
    assert len(plain) == len(tiny_recipe.measured_steps())
    assert all(row.warnings[-1:] == sampled for row in plain)


def test_plain_weak_variance_is_over_kmeans_centres_of_the_same_step(
    finished: RunFolder, tiny_recipe: Recipe
) -> None:
    test = load_data(tiny_recipe).test
    rows = [row for row in finished.read_rows() if "weak_test_variance" in row.metrics]
    assert [row.step for row in rows] == tiny_recipe.measured_steps()
    assert {(row.split, row.depth) for row in rows} == {("test", 2)}
    for row in rows:
        now = _features(tiny_recipe, finished, row.step, test, 2)
        means = _centres(now)
        nearest = ((now[:, None] - means) ** 2).sum(2).argmin(1)
        assert row.metrics["weak_test_variance"] == pytest.approx(_variance(now, means, nearest), rel=1e-6)
