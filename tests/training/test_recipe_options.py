"""Label smoothing, which parameters decay, and stochastic depth of networks of timm."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from collapselab import InputError
from collapselab.records.recipe import ModelSpec
from collapselab.training import Recipe, RunFolder, RunInterrupted, Stopper, run_recipe
from collapselab.training.building import build_model, load_data, loss_function, make_optimizer
from collapselab.training.engine import make_fabric
from collapselab.training.trainer import Trainer


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_label_smoothing_spreads_a_share_over_all_classes(temperature: float) -> None:
    outputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 1, 2, 0])
    recipe = Recipe(label_smoothing=0.3, temperature=temperature)
    logs = (outputs / temperature).log_softmax(1)
    expected = -sum(
        (0.7 * (c == label) + 0.3 / 4) * logs[n, c]
        for n, label in enumerate(labels.tolist())
        for c in range(4)
    )
    assert float(loss_function(recipe)(outputs, labels)) == pytest.approx(float(expected / 6), rel=1e-12)


def test_shares_of_classes_fit_a_network_with_more_scores() -> None:
    outputs, labels = torch.randn(5, 4), torch.tensor([0, 1, 1, 0, 1])
    shares = nn.functional.one_hot(labels, 2).float()
    loss = loss_function(Recipe())
    assert float(loss(outputs, shares)) == pytest.approx(float(loss(outputs, labels)), rel=1e-6)


class Net(nn.Module):
    """Kernels, norms, biases, and an embedding that the network excludes from weight decay as those of timm do."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.ones(1, 2, 3))
        self.convolution, self.norm, self.last = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def no_weight_decay(self) -> set[str]:
        return {"embedding"}

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("decayed", ["all", "weights"])
def test_only_weights_decay_where_the_recipe_says_so(name: str, decayed: str) -> None:
    """With gradients of zero, a step changes what decays and nothing else."""
    model = Net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    changes = {"optimizer.name": name, "optimizer.weight_decay": 0.1, "optimizer.decayed": decayed}
    make_optimizer(Recipe().with_changes(changes), model, torch.device("cpu")).step()
    changed = {name for name, parameter in model.named_parameters() if (parameter != 1).all()}
    weights = {"convolution.weight", "last.weight"}
    assert changed == (weights if decayed == "weights" else {name for name, _ in model.named_parameters()})
    unchanged = dict(model.named_parameters()).keys() - changed
    assert all((model.get_parameter(name) == 1).all() for name in unchanged)


def test_a_network_that_excludes_no_names_is_one_line() -> None:
    model = Net()
    model.no_weight_decay = lambda: 3  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match=r"no_weight_decay of the model: .*return a set of parameter names"):
        make_optimizer(Recipe().with_changes({"optimizer.decayed": "weights"}), model, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_captured_step_with_every_option_is_a_plain_step(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """On a GPU: augmentation is outside the graph, the regulariser inside."""
    recipe = tiny_recipe.with_changes(
        {
            "model": {"name": "convnet", "options": {"width": 4, "depth": 2}},
            "data.image_size": [8, 8],
            "augmentation": {"crop": 1, "flip": 0.5},
            "within_class_cosine": 0.5,
            "label_smoothing": 0.1,
        }
    )
    weights = []
    for captures in (True, False):
        fabric = make_fabric(recipe)
        folder = RunFolder(tmp_path / str(captures))
        folder.create()
        trainer = Trainer(recipe, load_data(recipe).to(fabric.device), folder, fabric, lambda *_: None)
        trainer.engine._captures = captures
        for _ in range(5):
            trainer.train_step()
        assert trainer.engine._captures == captures  # it was not refused
        weights.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
    # Kernels may be chosen differently; five float32 steps.
    assert all(torch.allclose(a, b, rtol=0, atol=1e-5) for a, b in zip(*weights, strict=True))


def test_stochastic_depth_is_an_option_of_timm_and_resumes_exactly(
    tiny_recipe: Recipe, tmp_path: Path, stop_at: Callable[[int], Stopper]
) -> None:
    model = ModelSpec(
        name="timm/resnet10t", options={"stem_width": 4, "channels": (4, 4, 4, 4), "drop_path_rate": 0.5}
    )
    recipe = tiny_recipe.model_copy(update={"model": model, "steps": 6}).with_changes(
        {"data.image_size": [16, 16], "measuring.layers": "last"}
    )
    rates = [getattr(part, "drop_prob", None) for part in build_model(recipe, load_data(recipe)).modules()]
    assert max(rate for rate in rates if rate) == 0.5
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    run_recipe(recipe, whole)
    with pytest.raises(RunInterrupted):
        run_recipe(recipe, parts, stopper=stop_at(3))
    run_recipe(recipe, parts)
    assert (parts.path / "measurements.jsonl").read_bytes() == (
        whole.path / "measurements.jsonl"
    ).read_bytes()
    ours, theirs = parts.read_weights(6), whole.read_weights(6)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_warmed_up_run_with_every_option_resumes_exactly(
    tiny_recipe: Recipe, tmp_path: Path, stop_at: Callable[[int], Stopper]
) -> None:
    recipe = tiny_recipe.with_changes(
        {
            "label_smoothing": 0.1,
            "within_class_cosine": 0.5,
            "optimizer.nesterov": True,
            "optimizer.decayed": "weights",
            "schedule": {"name": "steps", "every": 4, "factor": 0.9, "warm_up": 7, "warm_up_from": 0.01},
        }
    )
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    run_recipe(recipe, whole)
    for _ in range(3):
        with pytest.raises(RunInterrupted):
            run_recipe(recipe, parts, stopper=stop_at(5))
    run_recipe(recipe, parts)
    assert (parts.path / "measurements.jsonl").read_bytes() == (
        whole.path / "measurements.jsonl"
    ).read_bytes()
    ours, theirs = parts.read_weights(30), whole.read_weights(30)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
