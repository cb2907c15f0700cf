"""The within-class cosine regulariser against two loops over samples, its gradient, and what it does to training."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from collapselab import InputError, measure
from collapselab.records.recipe import ModelSpec
from collapselab.training import Recipe, RunFolder, run_recipe
from collapselab.training.building import build_model, load_data
from collapselab.training.engine import make_fabric
from collapselab.training.trainer import Trainer
from collapselab.training.within_class import WithinClassCosine, within_class_cosine


def _dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _by_pairs(features: Tensor, labels: Tensor) -> float:
    """Xu and Liu 2023, sec. 6.3, pair by pair in Python's float64."""
    rows = [[float(value) for value in row] for row in features.double()]
    total, classes = 0.0, sorted(set(labels.tolist()))
    for label in classes:
        members = [row for row, own in zip(rows, labels.tolist(), strict=True) if own == label]
        cosines = [
            _dot(one, other) / math.sqrt(_dot(one, one) * _dot(other, other))
            for one in members
            for other in members
        ]
        total += sum(cosines) / len(cosines) / len(members)
    return total / len(classes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_mean_over_pairs_of_samples(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(23, 7, generator=generator, dtype=torch.float64).to(dtype) + 0.5
    labels = torch.tensor(
        [0] * 9 + [2] * 8 + [3] * 5 + [5]
    )  # unbalanced; of classes 1, 4 and 6 there are none
    found = within_class_cosine(features, labels, 7)
    # Sums of at most nine directions of length one: a few roundings.
    assert float(found) == pytest.approx(_by_pairs(features, labels), rel=8 * torch.finfo(dtype).eps)


def test_in_a_balanced_batch_it_is_the_metric_over_the_samples_of_a_class() -> None:
    features = torch.randn(30, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.arange(3).repeat(10)
    metric = measure(features, labels, metrics=["cosine_similarity"]).splits["train"]["cosine_similarity"]
    assert metric is not None
    assert float(within_class_cosine(features, labels, 3)) == pytest.approx(metric / 10, rel=1e-12)


def test_a_collapsed_batch_has_one_over_the_samples_of_a_class() -> None:
    labels = torch.arange(4).repeat(5)
    assert float(within_class_cosine(torch.eye(4)[labels], labels, 4)) == pytest.approx(1 / 5)


def test_its_gradient_is_that_of_finite_differences() -> None:
    features = torch.randn(8, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: within_class_cosine(rows, labels, 4), features)


def test_samples_of_norm_zero_are_left_out_and_get_a_finite_gradient() -> None:
    features = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, -1.0], [0.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 0, 1])
    penalty = within_class_cosine(features, labels, 2)
    assert float(penalty.detach()) == pytest.approx(_by_pairs(features.detach()[1:3], labels[1:3]), rel=1e-6)
    penalty.backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_a_step_adds_the_gradient_of_the_penalty(tiny_recipe: Recipe, folder: RunFolder) -> None:
    """Against a loop in float64 that runs the layers of the network one by one."""
    recipe = tiny_recipe.model_copy(
        update={
            "within_class_cosine": 3.0,
            "model": ModelSpec(options={"width": 8, "depth": 1, "batch_norm": False}),
        }
    )
    data = load_data(recipe)
    model = build_model(recipe, data).double()
    folder.create()
    trainer = Trainer(recipe, data, folder, make_fabric(recipe), lambda *_: None)
    rows = trainer.batches.rows(0)
    caught: list[Tensor] = []
    last = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    labels = data.train.labels[rows]
    outputs = model(data.train.inputs[rows].double())
    units = nn.functional.normalize(caught[0], dim=1)
    penalty = torch.zeros((), dtype=torch.float64)
    for label in labels.unique():
        own = units[labels == label]
        penalty += (own @ own.T).mean() / len(own) / len(labels.unique())
    plain = nn.functional.cross_entropy(outputs, labels)
    (plain + 3.0 * penalty).backward()
    loss = trainer.engine.backward(data.train.inputs[rows], labels)
    assert float(loss) == pytest.approx(float(plain.detach()), rel=1e-5)  # the loss alone
    for ours, theirs in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        # Float32 gradients, of size about 0.1.
        assert torch.allclose(ours.grad.double(), theirs.grad, rtol=0, atol=1e-6)


def test_training_with_it_spreads_the_directions_of_a_class(tiny_recipe: Recipe, tmp_path: Path) -> None:
    found = {}
    for factor in (0.0, 5.0):
        recipe = tiny_recipe.with_changes(
            {
                "within_class_cosine": factor,
                "measuring.metrics": ["cosine_similarity"],
                "measuring.weak_test_variance": False,
            }
        )
        folder = RunFolder(tmp_path / str(factor))
        run_recipe(recipe, folder)
        rows = [row for row in folder.read_rows() if (row.step, row.split) == (30, "train")]
        found[factor] = max(rows, key=lambda row: row.depth).metrics["cosine_similarity"]
    assert found[5.0] < found[0.0] - 0.05


class Unused(nn.Module):
    """A network whose last registered layer does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier, self.other = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(inputs)


def test_a_classifier_that_does_not_run_is_one_line() -> None:
    model, inputs = Unused(), torch.randn(3, 4)
    penalty = WithinClassCosine(Recipe(within_class_cosine=1.0), model, 2)
    with penalty.listening():
        loss = model(inputs).sum()
    with pytest.raises(
        InputError, match="within_class_cosine: the last weight layer of the model is not used"
    ):
        penalty.added_to(loss, torch.tensor([0, 1, 1]))
    assert not model.other._forward_pre_hooks
