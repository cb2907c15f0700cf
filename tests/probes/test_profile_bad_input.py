"""What cannot be measured is refused in one line, and the model is as it was in every case."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from by_hand import flat_profile
from probe_networks import batches, draw, seeded, uneven
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.passes import reading
from collapselab.probes import capture_inputs, weight_layers

LABELS = uneven(20, 20, 20)
INPUTS = draw(6, labels=LABELS, dtype=torch.float32)
TRAIN = batches(INPUTS, LABELS, 20)


class Body(nn.Module):
    """Two hidden layers with batch norm and dropout, one layer that never runs."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 8)
        self.norm, self.dropout = nn.BatchNorm1d(8), nn.Dropout()
        self.unused, self.fc = nn.Linear(2, 2), nn.Linear(8, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.first(inputs).relu())
        return self.fc(self.second(self.dropout(hidden)))


class Breaks(Body):
    """Raises in its fifth forward pass: after looks at the first two batches and the first of the pass."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 5:
            raise ZeroDivisionError("on purpose")
        return super().forward(inputs)


class Logarithm(Body):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(self.second(self.first(inputs).log()))


class Sometimes(Body):
    """`second` runs only for whole batches of positive sum."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        return self.fc(self.second(hidden) if inputs.sum() > 0 else hidden)


class Repeats(Body):
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        for _ in range(1 if inputs.sum() > 0 else 2):
            hidden = self.second(hidden)
        return self.fc(hidden)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.fc = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.inner(tokens).mean(1))


def with_labels(change: Callable[[Tensor], Any], at: int = 1) -> list[Any]:
    return [(x, change(y.clone()) if i == at else y) for i, (x, y) in enumerate(TRAIN)]


def put(value: int) -> Callable[[Tensor], Tensor]:
    return lambda labels: torch.cat([labels[:-1], torch.tensor([value])])


SPLIT_SIGN = [(INPUTS[:20].abs(), LABELS[:20]), (-INPUTS[20:].abs(), LABELS[20:])]
TOKEN_LABELS = LABELS[:20]
TOKENS = [(torch.ones(20, 5, 6), TOKEN_LABELS), (torch.ones(20, 4, 6), TOKEN_LABELS)]

# name: (model, train loader, arguments, what the line says)
CASES: dict[str, tuple[type[nn.Module], Any, dict[str, Any], str]] = {
    "a misspelt layer": (Body, TRAIN, {"layers": "secnod"}, "'secnod' matches no module; did you mean 'second'"),
    "a glob that matches nothing": (Body, TRAIN, {"layers": "layer4.*"}, "'layer4.*' matches no module; known: first"),
    "a predicate that holds for nothing": (Body, TRAIN, {"layers": lambda *_: False}, "predicate holds for none"),
    "no layers at all": (Body, TRAIN, {"layers": []}, "no layer is left to measure"),
    "a layer that never runs": (Body, TRAIN, {"layers": ["fc", "unused"]}, "unused never ran"),
    "a model without weights": (nn.ReLU, TRAIN, {}, "ReLU has no linear or convolution layer"),
    "a label above the classes": (Body, with_labels(put(3)), {}, "train, batch 1: label 3 is outside the 3 outputs"),
    "a label above the counts": (Body, with_labels(put(2)), {"class_counts": [30, 30]}, "batch 0: label 2 is outside the 2 classes"),
    "a negative label": (Body, with_labels(put(-1)), {}, "train, batch 1: label -1 is negative"),
    "labels of floats": (Body, with_labels(Tensor.float), {}, "train, batch 1: labels have dtype torch.float32"),
    "labels of booleans": (Body, with_labels(lambda y: y > 0), {}, "train, batch 1: labels have dtype torch.bool"),
    "one-hot labels of floats": (Body, with_labels(lambda y: torch.eye(3)[y], 0), {}, "batch 0: labels have dtype torch.float32"),
    "one-hot labels": (Body, with_labels(lambda y: torch.eye(3).long()[y], 0), {}, "look like one-hot rows"),
    "one-hot labels as wide as a layer": (Tokens, [(torch.ones(20, 5, 6), torch.eye(3).long()[TOKEN_LABELS])], {}, "look like one-hot rows"),
    "labels of text": (Body, with_labels(lambda y: ["a"] * len(y), 0), {}, "train, batch 0: labels are a list"),
    "too few labels": (Body, with_labels(lambda y: y[:-1], 1), {}, "batch 1: first reads 20 rows of features for 19 labels"),
    "a loader that yields nothing": (Body, [], {}, "train: the loader yields nothing"),
    "a loader of padding only": (Body, [(INPUTS, torch.full_like(LABELS, -100))], {}, "yields no labelled samples"),
    "a batch of inputs only": (Body, [INPUTS], {}, "train, batch 0: a Tensor, not inputs with labels"),
    "a mapping without labels": (Body, [{"inputs": INPUTS}], {}, "none of labels, label"),
    "one class": (Body, [(INPUTS, torch.ones_like(LABELS))], {}, "all labels are 1; neural collapse needs at least two"),
    "NaN inside": (Logarithm, TRAIN, {}, "train, batch 0, layer second: "),
    "NaN in the inputs": (Body, [TRAIN[0], (TRAIN[1][0] / 0, TRAIN[1][1])], {}, "train, batch 1, layer first: "),
    "an unknown reduction": (Body, TRAIN, {"reduce": "max"}, "unknown reduction 'max'; use auto, flatten"),
    "an unknown scatter": (Body, TRAIN, {"scatter": "ful"}, "unknown scatter 'ful'; did you mean 'full'"),
    "an unknown weighting": (Body, TRAIN, {"weighting": "equal"}, "unknown weighting 'equal'"),
    "an unknown metric": (Body, TRAIN, {"metrics": "vcl"}, "unknown metric 'vcl'; did you mean 'vci'"),
    "an epsilon of one": (Body, TRAIN, {"epsilon": 1.0}, "epsilon=1.0: give a share"),
    "a sketch of nothing": (Body, TRAIN, {"sketch_size": 0}, "sketch_size=0: a sketch"),
    "wrong class counts": (Body, TRAIN, {"class_counts": [20, 21, 19]}, "class 1 was declared with 21 samples but 20 came"),
    "class counts of floats": (Body, TRAIN, {"class_counts": [0.5, 0.5]}, "class_counts: give one whole number per label"),
    "negative class counts": (Body, TRAIN, {"class_counts": [20, -20, 20]}, "class_counts: give one whole number per label"),
    "a token that does not exist": (Tokens, [(torch.ones(20, 5, 6), TOKEN_LABELS)], {"reduce": "token:5"}, "there is no token 5 in a sequence of 5"),
    "a token before the first": (Tokens, [(torch.ones(20, 5, 6), TOKEN_LABELS)], {"reduce": "token:-6"}, "there is no token -6"),
    "sequences that change in length": (Tokens, TOKENS, {}, "batch 1: inner reads features of shape (4, 6), but (5, 6) in the first"),
    "a layer that stops running": (Sometimes, SPLIT_SIGN, {}, "train, batch 1: second did not run, as it did in the first batch"),
    "a layer that runs more often": (Repeats, SPLIT_SIGN, {}, "train, batch 1: second#2 ran, which did not run in the first batch; leave it out"),
    "a test label that train lacks": (Body, [(x, y.clamp(max=1)) for x, y in TRAIN], {"test_loader": TRAIN}, "test: 20 samples have labels that no training sample has, the first is 2"),
    "a test label outside the classes": (Body, TRAIN, {"test_loader": with_labels(put(9))}, "test, batch 1: label 9 is outside"),
    "test data of one class": (Body, TRAIN, {"test_loader": [(INPUTS, torch.ones_like(LABELS))]}, "test: all labels are 1"),
    "no test data": (Body, TRAIN, {"test_loader": []}, "test: the loader yields no labelled samples"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def unchecked_annotations() -> Iterator[None]:
    """As for users: the run-time checks of annotations draw from Python's generator."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


class State:
    """Everything that a measurement could leave behind."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        model.train()
        next(iter(reversed(list(model.modules())))).eval()  # a mode of its own
        random.seed(5)
        np.random.seed(6)  # noqa: NPY002 (what must not move is the shared generator)
        torch.manual_seed(7)
        self.before = self.now()

    def now(self) -> list[Any]:
        return [
            [part.training for part in self.model.modules()],
            {name: value.clone() for name, value in self.model.state_dict().items()},
            random.getstate(),
            np.random.get_state(legacy=True)[1:],  # noqa: NPY002 (the shared generator)  # pyright: ignore[reportArgumentType] a tuple
            torch.get_rng_state(),
            (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
            [
                (
                    len(part._forward_pre_hooks),
                    len(part._forward_hooks),
                    len(part._forward_pre_hooks_with_kwargs),
                )
                for part in self.model.modules()
            ],
        ]

    def assert_as_before(self) -> None:
        modes, weights, python, numbers, generator, grad, hooks = self.now()
        assert modes == self.before[0]
        assert all(torch.equal(value, self.before[1][name]) for name, value in weights.items())
        assert python == self.before[2]
        assert np.array_equal(numbers[0], self.before[3][0])
        assert numbers[1:] == self.before[3][1:]
        assert torch.equal(generator, self.before[4])
        assert grad == self.before[5] == (True, False)
        assert hooks == self.before[6]
        assert all(count == (0, 0, 0) for count in hooks)


@pytest.mark.parametrize("case", CASES)
def test_refused_in_one_line_with_the_model_as_it_was(case: str) -> None:
    network, loader, arguments, says = CASES[case]
    model = network()
    state = State(model)
    with pytest.raises(InputError) as caught:
        flat_profile(model, loader, **arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    state.assert_as_before()


def test_an_error_of_the_model_is_one_line_with_its_cause() -> None:
    model = Breaks()
    state = State(model)
    with pytest.raises(InputError) as caught:
        flat_profile(model, TRAIN)
    line = next(
        number
        for number, text in enumerate(Path(__file__).read_text().splitlines(), 1)
        if "on purpose" in text
    )
    assert str(caught.value) == (
        f"train, batch 1: test_profile_bad_input.py, line {line}: ZeroDivisionError: on purpose (the model, Breaks, was given "
        "(20, 6)); check that the model takes such inputs"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert model.calls == 0  # restored with the rest of its state
    state.assert_as_before()


def test_file_and_line_of_an_error_come_before_shapes_however_many_there_are() -> None:
    class Many(nn.Linear):
        def forward(self, input: Tensor, *others: Tensor) -> Tensor:
            raise ValueError("too many of them: " + "word " * 60)

    with pytest.raises(InputError) as caught:
        flat_profile(Many(6, 3), [(*[torch.ones(20, 6)] * 40, LABELS[:20])])
    assert len(str(caught.value)) <= 300
    assert str(caught.value).startswith("train, batch 0: test_profile_bad_input.py, line ")
    assert "ValueError: too many of them" in str(caught.value)
    assert str(caught.value).endswith("; check that the model takes such inputs")


def test_an_error_of_the_model_in_the_first_batch_says_the_same() -> None:
    with pytest.raises(
        InputError, match=r"^train, batch 0: RuntimeError: .* \(the model, Linear, was given \(20, 6\)\)"
    ):
        flat_profile(nn.Linear(7, 3), TRAIN)


@pytest.mark.parametrize(
    ("inputs", "shapes"),
    [
        ({"a": torch.ones(20, 6), "labels": LABELS[:20]}, "a (20, 6)"),
        ((torch.ones(20, 6), torch.ones(20, 1), LABELS[:20]), "(20, 6) and (20, 1)"),
        (([torch.ones(20, 6), "text"], LABELS[:20]), "(20, 6) and str"),
    ],
    ids=["a mapping", "several inputs", "a list"],
)
def test_an_error_of_the_model_names_the_shapes_of_all_inputs(inputs: Any, shapes: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"(the model, Body, was given {shapes})")):
        flat_profile(Body(), [inputs])


@pytest.mark.parametrize(
    "error",
    [
        InputError("mine"),
        MemoryError("too much"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_are_not_the_models_fault_pass_unchanged(error: Exception) -> None:
    class Raises(Body):
        def forward(self, inputs: Tensor) -> Tensor:
            raise error

    with pytest.raises(type(error)) as caught:
        flat_profile(Raises(), TRAIN)
    assert caught.value is error


def test_an_error_of_ours_inside_the_forward_pass_is_not_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(reading._Reading, "receive", broken)
    with pytest.raises(RuntimeError, match=r"^a mistake of ours$"):
        flat_profile(Body(), TRAIN)


def test_an_error_of_the_loader_is_passed_on() -> None:
    def loader() -> Any:
        yield TRAIN[0]
        np.random.rand()  # noqa: NPY002 (as augmentations do)
        random.random()
        torch.rand(1)
        raise OSError("the disk is gone")

    state = State(model := Body())
    with pytest.raises(OSError, match="the disk is gone"):
        flat_profile(model, loader())
    state.assert_as_before()


def test_the_model_is_as_it_was_after_a_measurement() -> None:
    class Random(Body):
        def forward(self, inputs: Tensor) -> Tensor:
            noise = torch.rand(1) + float(np.random.rand()) + random.random()  # noqa: NPY002 (the shared generator)
            return super().forward(inputs + noise)

    state = State(model := Random())
    flat_profile(model, TRAIN, TRAIN, scatter="sketch")
    state.assert_as_before()


@pytest.mark.usefixtures("reads_twice")
def test_hooks_of_the_callers_own_stay() -> None:
    model, calls = seeded(Body, dtype=torch.float32), []
    handle = model.first.register_forward_hook(lambda *_: calls.append(1))
    flat_profile(model, TRAIN)
    assert len(model.first._forward_hooks) == 1
    # The first batch, a part of it, a part of the second forwards and backwards; two passes.
    assert len(calls) == 2 + 1 + 3 + 3
    handle.remove()


def test_captured_inputs_are_what_layers_read_and_hooks_go_with_an_error() -> None:
    model = seeded(Body, dtype=torch.float32).eval()
    caught: dict[str, Tensor] = {}
    with capture_inputs(weight_layers(model), lambda name, rows: caught.update({name: rows})):
        model(INPUTS)
    assert torch.equal(caught["first"], INPUTS)
    assert torch.equal(caught["fc"], model.second(model.norm(model.first(INPUTS).relu())))
    assert "unused" not in caught
    with pytest.raises(RuntimeError), capture_inputs(weight_layers(model), lambda *_: None):
        model(torch.randn(4, 5))
    assert all(not part._forward_pre_hooks for part in model.modules())
