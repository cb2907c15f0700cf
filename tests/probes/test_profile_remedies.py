"""Inputs that cannot be measured as they are: the message names a remedy, and the remedy works."""

from __future__ import annotations

import pytest
import torch
from by_hand import assert_equals_oracle
from probe_networks import batches, draw, seeded
from torch import Tensor, nn

from collapselab import InputError
from collapselab.probes import profile

LABELS = torch.arange(60) % 3
INPUTS = draw(5, labels=LABELS)


class Routed(nn.Module):
    """One expert for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(5, 4) for _ in range(2))
        self.last = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden, chosen = inputs.new_zeros(len(inputs), 4), (inputs[:, 0] > 0).long()
        for number, expert in enumerate(self.experts):
            if bool((chosen == number).any()):
                hidden[chosen == number] = expert(inputs[chosen == number])
        return self.last(hidden.tanh())


class Recurrent(nn.Module):
    """A loop written by hand, as long as the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.last = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.zeros_like(inputs[:, 0])
        for token in inputs.unbind(1):
            hidden = (self.step(hidden) + token).tanh()
        return self.last(hidden)


def refusal(model: nn.Module, loader: list[tuple[Tensor, ...]], **options: object) -> str:
    with pytest.raises(InputError) as caught:
        profile(model, loader, **options)  # pyright: ignore[reportArgumentType]
    assert len(str(caught.value)) <= 300
    return str(caught.value)


def test_experts_of_which_one_read_the_first_batch_can_be_left_out() -> None:
    model, order = seeded(Routed), INPUTS[:, 0].argsort()
    inputs, labels = INPUTS[order], LABELS[order]
    loader = batches(inputs, labels, 12)
    said = refusal(model, loader)
    assert "experts.0 reads 9 rows of features for 12 labels" in said
    assert "unlike in the first batch; leave it out with layers='!experts.0'" in said
    found = profile(model, loader, layers="!experts")
    assert [layer.name for layer in found.layers] == ["last"]
    hidden = torch.where(inputs[:, :1] > 0, model.experts[1](inputs), model.experts[0](inputs)).tanh()
    assert_equals_oracle(found["last"], hidden, labels)


@pytest.mark.parametrize("lengths", [(2, 3), (3, 2)])
def test_a_loop_whose_length_differs_between_batches_can_be_left_out(lengths: tuple[int, int]) -> None:
    model, sequences = seeded(Recurrent), draw(3, 5, labels=LABELS)
    parts = batches(sequences, LABELS, 30)
    loader = [(inputs[:, :length], labels) for (inputs, labels), length in zip(parts, lengths, strict=True)]
    said = refusal(model, loader)
    assert "batch 1: step#3 " in said
    assert "leave it out with layers='!step'" in said
    found = profile(model, loader, layers="!step")
    caught: list[Tensor] = []
    handle = model.last.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    for inputs, _ in loader:
        model(inputs)
    handle.remove()
    assert_equals_oracle(found["last"], torch.cat(caught), LABELS)


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("!experts.0", ["experts.1", "last"]),
        (["!experts.0", "!last"], ["experts.1"]),
        ("experts.*,!*.1", ["experts.0"]),
        ("!ex*.*", ["last"]),
    ],
)
def test_names_and_globs_that_leave_layers_out(layers: str | list[str], names: list[str]) -> None:
    class All(Routed):
        def forward(self, inputs: Tensor) -> Tensor:
            return self.last(sum(expert(inputs) for expert in self.experts))

    found = profile(seeded(All), batches(INPUTS, LABELS, 12), layers=layers)
    assert [layer.name for layer in found.layers] == names


@pytest.mark.parametrize(
    ("layers", "says"),
    [("!middle", "'middle' matches no module"), ("last,!last", "leaves out all modules"), ("!*", "leaves out all")],
)  # fmt: skip
def test_leaving_out_what_is_not_there_or_everything_is_refused(layers: str, says: str) -> None:
    assert says in refusal(seeded(Routed), batches(INPUTS, LABELS, 12), layers=layers)


def test_numbers_of_samples_are_no_labels() -> None:
    """A data set that yields (input, label, number), and a model that takes labels too."""

    class Scoring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(5, 3)

        def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
            return self.last(inputs)

    loader = [(*part, number) for part, number in zip(batches(INPUTS, LABELS, 12), torch.arange(60).split(12), strict=True)]  # fmt: skip
    model = seeded(Scoring)
    assert "each of the 60 labels occurs once, as numbers of samples do" in refusal(model, loader)
    found = profile(model, loader, split_batch=lambda batch: (batch[0], batch[1]))
    assert_equals_oracle(found["last"], INPUTS, LABELS)


def test_one_label_of_pixels_outside_the_scores_may_be_padding() -> None:
    labels = torch.randint(0, 3, (24, 6, 6), generator=torch.Generator().manual_seed(0))
    images = draw(2, labels=labels.flatten()).view(24, 6, 6, 2).movedim(-1, 1)
    marked = labels.masked_fill(
        torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.2, 255
    )
    model = seeded(nn.Sequential, nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1))
    for loader in (batches(images, marked, 6), batches(images, torch.cat([labels[:6], marked[6:]]), 6)):
        assert "give ignore_index=255 if it marks padding" in refusal(model, loader)
    found = profile(model, batches(images, marked, 6), ignore_index=255)
    rows, counted = model[:2](images).movedim(1, -1).reshape(-1, 4), marked.flatten() != 255
    assert_equals_oracle(found["2"], rows[counted], labels.flatten()[counted])


EMPTY = (INPUTS[:0], LABELS[:0])


@pytest.mark.parametrize("at", [0, 1, 3, 5])
def test_a_batch_without_samples_changes_nothing(at: int) -> None:
    model, loader = seeded(nn.Sequential, nn.Linear(5, 3)), batches(INPUTS, LABELS, 12)
    loader.insert(at, EMPTY)
    found = profile(model, loader)
    assert_equals_oracle(found["0"], INPUTS, LABELS)
    assert found["0"].train["ncc_agreement"] is not None


def test_batches_without_samples_alone_are_refused() -> None:
    model, loader = seeded(nn.Sequential, nn.Linear(5, 3)), batches(INPUTS, LABELS, 12)
    assert "the first batches have no samples" in refusal(model, [EMPTY, EMPTY, *loader])
