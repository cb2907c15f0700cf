"""Augmentation: what changes, that it depends on seed, step and sample alone, and that a killed run goes on exactly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from collapselab import InputError
from collapselab.data import DataSplits
from collapselab.records.recipe import ModelSpec
from collapselab.training import Recipe, RunFolder, RunInterrupted, Stopper, run_recipe
from collapselab.training.augmenting import Augment, augmentation
from collapselab.training.building import load_data
from collapselab.training.engine import make_fabric
from collapselab.training.trainer import Trainer

EVERYTHING = {
    "resized_crop": 0.5,
    "crop": 2,
    "flip": 0.5,
    "auto_augment": "cifar10",
    "erasing": 0.5,
    "mixup": 0.4,
    "cutmix": 1.0,
}
ROWS = torch.arange(12)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in colour, 8 x 9 pixels, 12 for training and 6 for test in two classes."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for label in ("a", "b"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(1, 256, (8, 9, 3), dtype=np.uint8)  # black is padding alone
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    return folder


@pytest.fixture
def recipe(images: Path, tiny_recipe: Recipe) -> Recipe:
    return tiny_recipe.model_copy(
        update={
            "model": ModelSpec(name="convnet", options={"width": 4, "depth": 2}),
            "steps": 8,
            "batch_size": 5,
        }
    ).with_changes({"data": {"name": str(images), "standardize": "pixel"}, "measuring.count": 3})


def _changed(recipe: Recipe, data: DataSplits, step: int = 0, rows: Tensor = ROWS) -> tuple[Tensor, Tensor]:
    return Augment(recipe, data)(data.train.inputs[rows], data.train.labels[rows], rows, step)


def _pixels(inputs: Tensor, data: DataSplits) -> Tensor:
    assert data.standardization is not None
    mean, deviation = data.standardization
    return ((inputs * deviation + mean) * 255).round()


def test_a_crop_is_a_window_of_the_padded_image_another_for_each(recipe: Recipe) -> None:
    recipe = recipe.with_changes({"augmentation.crop": 2})
    data = load_data(recipe)
    changed, labels = _changed(recipe, data)
    assert torch.equal(labels, data.train.labels)
    padded = torch.nn.functional.pad(_pixels(data.train.inputs, data), (2, 2, 2, 2))  # with black
    places = set()
    for image, whole in zip(_pixels(changed, data), padded, strict=True):
        windows = [
            (y, x) for y in range(5) for x in range(5) if torch.equal(whole[:, y : y + 8, x : x + 9], image)
        ]
        assert len(windows) == 1
        places.add(windows[0])
    assert len(places) > 4  # twelve draws of 25 places


def test_flips_are_of_single_images_and_as_often_as_asked_for(recipe: Recipe) -> None:
    data = load_data(recipe)
    flipped = 0
    for step in range(40):
        changed, _ = _changed(recipe.with_changes({"augmentation.flip": 0.3}), data, step)
        for image, before in zip(_pixels(changed, data), _pixels(data.train.inputs, data), strict=True):
            is_flipped = torch.equal(image, before.flip(-1))
            assert is_flipped or torch.equal(image, before)
            flipped += is_flipped
    # 480 draws: mean 144, standard deviation 10.
    assert 104 < flipped < 184
    always, _ = _changed(recipe.with_changes({"augmentation.flip": 1.0}), data)
    assert torch.equal(_pixels(always, data), _pixels(data.train.inputs, data).flip(-1))


def test_a_change_depends_on_seed_step_and_sample_alone(recipe: Recipe) -> None:
    """So two processes see what one sees: each changes its share of a batch."""
    recipe = recipe.with_changes({"augmentation": EVERYTHING | {"mixup": 0.0, "cutmix": 0.0}})
    data = load_data(recipe)
    torch.manual_seed(1)
    whole, _ = _changed(recipe, data, 3)
    torch.manual_seed(2)
    part, _ = _changed(recipe, data, 3, ROWS[1::2])
    assert torch.equal(part, whole[1::2])
    for other, step in ((recipe, 4), (recipe.with_changes({"seed": 1}), 3)):
        assert not torch.equal(_changed(other, data, step)[0], whole)
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(2))  # draws of the network


@pytest.mark.parametrize("name", EVERYTHING)
def test_each_change_changes_images_and_keeps_their_form(name: str, recipe: Recipe) -> None:
    recipe = recipe.with_changes({f"augmentation.{name}": EVERYTHING[name]})
    data = load_data(recipe)
    changed, labels = _changed(recipe, data)
    assert (changed.shape, changed.dtype) == (data.train.inputs.shape, torch.float32)
    assert changed.isfinite().all()
    assert not torch.allclose(changed, data.train.inputs, atol=0.01)
    if name in ("mixup", "cutmix"):
        assert labels.shape == (12, 2)
        assert torch.allclose(labels.sum(dim=1), torch.ones(12))
        assert ((labels > 0) & (labels < 1)).any()
    else:
        assert torch.equal(labels, data.train.labels)


def test_mixed_labels_are_in_the_shares_of_their_images(recipe: Recipe) -> None:
    recipe = recipe.with_changes({"augmentation.mixup": 1.0})
    data = load_data(recipe)
    changed, labels = _changed(recipe, data)
    before, one_hot = data.train.inputs.double(), torch.nn.functional.one_hot(data.train.labels, 2)
    share = float((changed - before.roll(1, 0)).norm() / (before - before.roll(1, 0)).norm())
    expected = share * one_hot + (1 - share) * one_hot.roll(1, 0)
    # Pixels in eight bits and standardised again: about 1e-7 of roundings in float32.
    assert torch.allclose(labels.double(), expected.double(), atol=1e-5)


@pytest.mark.parametrize("plan", [{"crop": 2, "flip": 0.5}, EVERYTHING])
def test_a_run_in_short_slots_is_the_run_in_one(
    plan: dict[str, Any], recipe: Recipe, tmp_path: Path, stop_at: Callable[[int], Stopper]
) -> None:
    recipe = recipe.with_changes({"augmentation": plan})
    whole, parts, plain = (RunFolder(tmp_path / name) for name in ("whole", "parts", "plain"))
    run_recipe(recipe, whole)
    for _ in range(3):
        with pytest.raises(RunInterrupted):
            run_recipe(recipe, parts, stopper=stop_at(2))
    run_recipe(recipe, parts)
    for name in ("measurements.jsonl", "final_reference.jsonl"):
        assert (parts.path / name).read_bytes() == (whole.path / name).read_bytes()
    ours, theirs = parts.read_weights(8), whole.read_weights(8)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    run_recipe(recipe.with_changes({"augmentation": {}}), plain)
    assert any(not torch.equal(tensor, theirs[name]) for name, tensor in plain.read_weights(8).items())


def test_measurements_are_of_the_images_as_they_are(recipe: Recipe, tmp_path: Path) -> None:
    """At step 0, nothing differs from a run without augmentation."""
    rows = []
    for name, plan in (("with", EVERYTHING), ("without", {})):
        folder = RunFolder(tmp_path / name)
        run_recipe(recipe.with_changes({"augmentation": plan}), folder)
        rows.append([(row.split, row.layer, row.metrics) for row in folder.read_rows() if row.step == 0])
    assert rows[0] == rows[1] != []


def test_the_training_step_sees_changed_images(recipe: Recipe, folder: RunFolder) -> None:
    recipe = recipe.with_changes({"augmentation": {"flip": 1.0}})
    data = load_data(recipe)
    folder.create()
    trainer = Trainer(recipe, data, folder, make_fabric(recipe), lambda *_: None)
    seen: list[Tensor] = []
    trainer.model.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    trainer.train_step()
    expected = _pixels(data.train.inputs[trainer.batches.rows(0)], data).flip(-1)
    assert torch.equal(_pixels(seen[0], data), expected)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_digits_as_images_are_changed_too(tiny_recipe: Recipe) -> None:
    recipe = tiny_recipe.with_changes({"data.image_size": [8, 8], "augmentation.flip": 1.0})
    data = load_data(recipe)
    assert torch.equal(_changed(recipe, data)[0], data.train.inputs[ROWS].flip(-1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"augmentation.flip": 0.5},
            "augmentation: needs images of shape .*, not samples of shape \\(64,\\)",
        ),
        (
            {"augmentation.auto_augment": "svhn", "data.image_size": [8, 8]},
            "augmentation.auto_augment: needs images of 8-bit pixels",
        ),
    ],
)
def test_samples_that_it_cannot_change_are_one_line(
    changes: dict[str, Any], message: str, tiny_recipe: Recipe, folder: RunFolder
) -> None:
    with pytest.raises(InputError, match=message):
        run_recipe(tiny_recipe.with_changes(changes), folder)


def test_without_augmentation_nothing_is_done(tiny_recipe: Recipe) -> None:
    assert augmentation(tiny_recipe, load_data(tiny_recipe)) is None
