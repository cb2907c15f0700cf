"""Every layer's numbers against `measure` on features taken out the slow way; the model is left as found."""

import pytest
import torch
from torch import Tensor, nn

from collapselab import measure
from collapselab.data import Split
from collapselab.models import MLP
from collapselab.probes import capture_inputs, measure_layers, weight_layers


@pytest.fixture
def model() -> MLP:
    torch.manual_seed(0)
    model = MLP(6, 3, width=12, depth=2)
    with torch.no_grad():
        for _ in range(5):  # batch-norm statistics that are not the initial ones
            model(torch.randn(32, 6) * 2 + 1)
    return model


@pytest.fixture
def splits() -> tuple[Split, Split]:
    generator = torch.Generator().manual_seed(1)

    def draw(n: int) -> Split:
        labels = torch.arange(n) % 3
        return Split(torch.randn(n, 6, generator=generator) + labels[:, None], labels)

    return draw(200), draw(91)


def _read_by(model: MLP, inputs: Tensor, depth: int) -> Tensor:
    model.eval()
    with torch.no_grad():
        for index in range(depth):
            inputs = model.norms[index](model.layers[index](inputs)).relu()
    return inputs


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_every_number_equals_measure_on_the_extracted_features(
    model: MLP, splits: tuple[Split, Split], depth: int
) -> None:
    train, test = splits
    measured = {
        (m.depth, m.split): m for m in measure_layers(model, train, test, num_classes=3, batch_size=64)
    }
    with torch.no_grad():
        decided = [model.eval()(split.inputs).argmax(1) for split in splits]
    last = model.layers[2]
    assert isinstance(last, nn.Linear)
    weight = last.weight.detach() if depth == 2 else None
    expected = measure(
        _read_by(model, train.inputs, depth),
        train.labels,
        predictions=decided[0],
        weight=weight,
        test=(_read_by(model, test.inputs, depth), test.labels, decided[1]),
        product_dtype=torch.float64,
    )
    for split in ("train", "test"):
        values = measured[depth, split].metrics
        for name, value in values.items():
            if weight is None and ("weight" in name or name in ("alignment", "self_duality")):
                continue  # measure takes a classifier's weight only
            wanted = expected.splits[split][name]
            # The same float64 sums in batches of 64 and in one piece.
            assert value == pytest.approx(wanted, rel=1e-9, abs=1e-12), (split, name)


def test_layers_come_in_order_of_depth_train_before_test(model: MLP, splits: tuple[Split, Split]) -> None:
    order = [(m.depth, m.layer, m.split) for m in measure_layers(model, *splits, num_classes=3)]
    assert order == [(d, f"layers.{d}", split) for d in range(3) for split in ("train", "test")]


def test_batch_size_does_not_matter(model: MLP, splits: tuple[Split, Split]) -> None:
    one, many = (measure_layers(model, *splits, num_classes=3, batch_size=b) for b in (1000, 17))
    for a, b in zip(one, many, strict=True):
        for name, value in a.metrics.items():
            # Forward passes in other batch sizes round differently in float32.
            wanted = None if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)
            assert b.metrics[name] == wanted, name


def _hooks(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_found(model: MLP, splits: tuple[Split, Split], training: bool) -> None:
    model.train(training)
    model.norms[0].eval()  # a mode of its own, as for frozen batch norm
    modes = [m.training for m in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.random.get_rng_state()
    measure_layers(model, *splits, num_classes=3)
    assert [m.training for m in model.modules()] == modes
    assert _hooks(model) == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.is_grad_enabled()


def test_hooks_go_when_the_forward_pass_raises(model: MLP) -> None:
    with pytest.raises(RuntimeError), capture_inputs(weight_layers(model), lambda *_: None):
        model(torch.randn(4, 5))
    assert _hooks(model) == 0


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="no linear layer"):
        weight_layers(nn.ReLU())


def test_spectra_are_kept_only_when_asked_for(model: MLP, splits: tuple[Split, Split]) -> None:
    (without, *_), (with_them, *_) = (
        measure_layers(model, *splits, num_classes=3, spectra=spectra) for spectra in (False, True)
    )
    assert without.spectra == {}
    assert sum(with_them.spectra["within_eigenvalues"]) == pytest.approx(with_them.metrics["within_trace"])
