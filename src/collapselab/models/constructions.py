"""The networks constructed in Hui, Belkin and Nakkiran (2022), sec. 2.1, as PyTorch modules that can be measured.

All end in a linear layer whose weight is the identity. Its inputs are what the paper calls the representation, so
`collapselab.profile` measures them as last-layer features, as in any network.

Letters: n samples, k classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from collapselab.errors import InputError

_DIGEST_BYTES = 16
_UNKNOWN = -1
_RANDOM_NUMBERS = 2**24  # as many as float32 tells apart between 0 and 1


class OneHotDecisions(nn.Module):
    """Network f' of sec. 2.1: its last-layer features are the one-hot decisions of a network f.

    Decisions, and therefore accuracy, are those of f. The features are at k points whatever f has learned, which is
    weak test collapse by construction: `weak_test_variance` is 0 if each of the k decisions occurs on the test set. If
    some decision never occurs, there are fewer than k distinct features, and it is undefined, because the k distinct
    points of the definition do not exist on this data. Strong test collapse does not follow: a class of which a
    fraction q_j is decided as j has variance 1 - sum_j q_j^2. Train collapse holds if f makes no error on the train
    set.

    Decisions have no gradient: train f, then wrap it.

    Args:
        network: f; takes one tensor and returns class scores (n, k).
        num_classes: k.

    Raises:
        InputError: fewer than two classes; when run, scores of another shape.
    """

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.classifier = _identity_classifier(num_classes)
        some_weight = next(network.parameters(), None)
        if some_weight is not None:
            self.classifier.to(some_weight.device)

    def features(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        """One-hot decisions; NaN for a sample with a score that is NaN, which has no decision."""
        scores = self.network(inputs)
        wanted = (len(inputs), self.classifier.in_features)
        if not isinstance(scores, Tensor) or tuple(scores.shape) != wanted:
            found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(
                f"OneHotDecisions: the network returns {found}, not class scores of shape {wanted}"
            )
        # argmax treats NaN as the largest score: a diverged network would seem to have collapsed.
        undecided = scores.isnan().any(1, keepdim=True)
        return self.classifier.weight[scores.argmax(1)].masked_fill(undecided, float("nan"))

    def forward(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        return self.classifier(self.features(inputs))


class Memoriser(nn.Module):
    """A network that looks up the training samples and knows nothing else: collapse without generalisation (sec. 2.1).

    The features of a training sample, recognised bit by bit, are the one-hot vector of its label: `train_variance` is
    exactly 0 and train accuracy 1. The features of any other sample are a random function of its bits and the seed,
    right for about one sample in k.

    There are two kinds. By default, other samples are scattered uniformly over the unit cube (no test collapse of any
    kind). With `weakly_collapsed` they are put on the point of a random class (weak test collapse, yet random
    decisions).

    A digest of each training sample is stored in a buffer: `state_dict` holds the whole network, and loads into a
    memoriser of as many samples of the same shape and dtype.

    Args:
        train_inputs: (n, ...), of any dtype.
        train_labels: (n,), whole numbers 0 … k - 1.
        num_classes: k.
        seed: seed of the random function.
        weakly_collapsed: which kind.

    Raises:
        InputError: labels that do not fit; equal samples with different labels, which no function tells apart; when
            run, inputs of another shape or dtype, which could not equal a training sample.
    """

    digests: Tensor
    labels: Tensor
    seed: Tensor

    def __init__(
        self,
        train_inputs: Shaped[Tensor, "n ..."],
        train_labels: Int[Tensor, " m"],
        num_classes: int,
        seed: int = 0,
        *,
        weakly_collapsed: bool = False,
    ) -> None:
        super().__init__()
        _check_labels(train_labels, len(train_inputs), num_classes)
        self.weakly_collapsed = weakly_collapsed
        self.sample_shape, self.input_dtype = tuple(train_inputs.shape[1:]), train_inputs.dtype
        digests = torch.tensor(
            [list(_digest(sample)) for sample in _samples(train_inputs)], dtype=torch.uint8
        )
        self.register_buffer("digests", digests)
        self.register_buffer("labels", train_labels.detach().to("cpu", torch.int64))
        self.register_buffer("seed", torch.tensor(seed, dtype=torch.int64))
        self.classifier = _identity_classifier(num_classes)
        self.to(train_inputs.device)
        self._build_table()
        self.register_load_state_dict_post_hook(_rebuild_table)

    def features(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        """The point of its label for a training sample, a random one for any other."""
        if tuple(inputs.shape[1:]) != self.sample_shape or inputs.dtype != self.input_dtype:
            raise InputError(
                f"Memoriser: inputs are {inputs.dtype} of shape {tuple(inputs.shape[1:])} per sample, but those memorised "
                f"{self.input_dtype} of shape {self.sample_shape}; give them as in training"
            )
        points = self.classifier.weight
        labels, numbers = self._look_up(inputs)
        is_known = labels != _UNKNOWN
        classes = points[torch.where(is_known, labels, numbers[:, 0] % len(points))]
        if self.weakly_collapsed:
            return classes
        scattered = (numbers.float() / _RANDOM_NUMBERS).to(points.dtype)
        return torch.where(is_known[:, None], classes, scattered)

    def _look_up(self, inputs: Tensor) -> tuple[Int[Tensor, " n"], Int[Tensor, "n k"]]:
        """Labels of training samples, else `_UNKNOWN`; and k random numbers that follow from bits and seed."""
        num_classes, device = self.classifier.in_features, self.classifier.weight.device
        key = int(self.seed).to_bytes(8, "little", signed=True)
        labels, drawn = [], bytearray()
        for sample in _samples(inputs):
            labels.append(self._table.get(_digest(sample), _UNKNOWN))
            drawn += hashlib.shake_128(key + sample).digest(4 * num_classes)
        numbers = (
            np.frombuffer(drawn, dtype="<u4").astype(np.int64).reshape(-1, num_classes) % _RANDOM_NUMBERS
        )
        return torch.tensor(labels, dtype=torch.int64, device=device), torch.from_numpy(numbers).to(device)

    def _build_table(self) -> None:
        """Map the digest of each training sample to its label.

        Raises:
            InputError: equal samples with different labels.
        """
        labels = self.labels.tolist()
        first: dict[bytes, int] = {}
        for row, digest in enumerate(_samples(self.digests)):
            other = first.setdefault(digest, row)
            if labels[other] != labels[row]:
                raise InputError(
                    f"Memoriser: training samples {other} and {row} are equal but labelled {labels[other]} and "
                    f"{labels[row]}; no function of the input has both, leave one out"
                )
        self._table = {digest: labels[row] for digest, row in first.items()}

    def forward(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        return self.classifier(self.features(inputs))


def _rebuild_table(module: nn.Module, _: object) -> None:
    assert isinstance(module, Memoriser)
    module._build_table()


def _samples(inputs: Tensor) -> Iterator[bytes]:
    """Yield the bytes of each sample: equal where samples are equal bit by bit."""
    rows = inputs.detach().cpu().flatten(1) if inputs.ndim > 1 else inputs.detach().cpu()[:, None]
    for row in rows.contiguous().view(torch.uint8).numpy():
        yield row.tobytes()


def _digest(sample: bytes) -> bytes:
    return hashlib.blake2b(sample, digest_size=_DIGEST_BYTES).digest()


def _identity_classifier(num_classes: int) -> nn.Linear:
    """Return a layer that passes k features through; it is not trained and draws no random numbers."""
    if num_classes < 2:
        raise InputError(f"num_classes is {num_classes}; a classifier decides between at least two")
    layer = nn.utils.skip_init(nn.Linear, num_classes, num_classes, bias=False)
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        nn.init.eye_(layer.weight)
    return layer.requires_grad_(False)


def _check_labels(labels: Tensor, num_samples: int, num_classes: int) -> None:
    if len(labels) != num_samples or num_samples == 0:
        raise InputError(
            f"Memoriser: {len(labels)} labels for {num_samples} training inputs; give one per input, and at least one"
        )
    low, high = (int(value) for value in torch.aminmax(labels))
    if low < 0 or high >= num_classes:
        raise InputError(
            f"Memoriser: label {low if low < 0 else high} is outside the {num_classes} classes (0 … {num_classes - 1}); "
            "correct the labels or num_classes"
        )
