"""The networks that Hui, Belkin and Nakkiran (2022) argue with in sec. 2.1, as modules that can be measured.

All end in a linear layer with the identity for its weight, so that what this layer reads is what the paper calls the
representation, and `collapselab.profile` takes it for the classifier's features as in any network.

Letters: n samples, k classes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.papers.hui2022.row_hash import as_words, choices, hash_rows, mix, uniforms


class OneHotDecisions(nn.Module):
    """f' of sec. 2.1: the last-layer features are the one-hot decisions of a network f.

    Decisions, and so accuracy, are those of f. Features are at k points whatever f has learned, which is weak test
    collapse by construction: `weak_test_variance` is 0 when each of the k decisions occurs on the test set. When some
    never occur there are fewer than k distinct features, and it is undefined, as the definition's k distinct points do
    not exist on this data. Strong test collapse is another matter: a class that is decided in several ways, a fraction
    q_j of it as j, has variance 1 - sum_j q_j^2. Train collapse holds when f makes no error on the train set.

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
        """One-hot decisions. A sample with a score that is NaN has no decision, and NaN for features."""
        scores = self.network(inputs)
        wanted = (len(inputs), self.classifier.in_features)
        if not isinstance(scores, Tensor) or tuple(scores.shape) != wanted:
            found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(
                f"OneHotDecisions: the network returns {found}, not class scores of shape {wanted}"
            )
        # argmax takes NaN for the largest: a diverged network would seem to have collapsed.
        undecided = scores.isnan().any(1, keepdim=True)
        return self.classifier.weight[scores.argmax(1)].masked_fill(undecided, float("nan"))

    def forward(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        return self.classifier(self.features(inputs))


class Memoriser(nn.Module):
    """Knows the train set by heart and nothing else: collapse without generalisation (sec. 2.1).

    A sample that equals a training sample bit by bit has the one-hot vector of that sample's label for its features:
    `train_variance` is exactly 0 and train accuracy 1. What any other sample gets follows from its bits and the seed
    alone, by a hash: a fixed but random function, right for about one sample in k.

    Two kinds: others are scattered uniformly over the unit cube (no test collapse of any kind), or put on the point
    of a random class (weak test collapse, yet random decisions).

    It stores the training inputs, as buffers: `state_dict` holds all of it and loads into a memoriser of as many
    samples of the same shape and dtype.

    Args:
        train_inputs: (n, ...), of any dtype.
        train_labels: (n,), whole numbers 0 … k - 1.
        num_classes: k.
        seed: of the random function.
        weakly_collapsed: which kind.

    Raises:
        InputError: labels that do not fit; equal samples with different labels, which no function tells apart; when
            run, inputs of another shape or dtype, which could equal none of those memorised.
    """

    words: Tensor
    hashes: Tensor
    labels: Tensor
    salt: Tensor

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
        words, labels = as_words(train_inputs.detach()), train_labels.to(train_inputs.device, torch.int64)
        base = mix(torch.tensor(seed, dtype=torch.int64, device=words.device))
        while True:
            salt = mix(base)
            hashes = hash_rows(words, salt)
            order = hashes.argsort(stable=True)
            hashes, sorted_words = hashes[order], words[order]
            same = (sorted_words[1:] == sorted_words[:-1]).all(1)
            # The lookup finds one row per hash: a salt with which two different samples share one will not do.
            if not bool(((hashes[1:] == hashes[:-1]) & ~same).any()):
                break
            base = base + 1
        _check_twins(same, labels[order], order)
        self.register_buffer("words", sorted_words)
        self.register_buffer("hashes", hashes)
        self.register_buffer("labels", labels[order])
        self.register_buffer("salt", salt)
        self.classifier = _identity_classifier(num_classes).to(words.device)

    def features(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        """The point of its label for a training sample, something random for any other."""
        if tuple(inputs.shape[1:]) != self.sample_shape or inputs.dtype != self.input_dtype:
            raise InputError(
                f"Memoriser: inputs are {inputs.dtype} of shape {tuple(inputs.shape[1:])} per sample, but those memorised "
                f"{self.input_dtype} of shape {self.sample_shape}; give them as in training"
            )
        words = as_words(inputs.detach())
        hashes = hash_rows(words, self.salt)
        place = torch.searchsorted(self.hashes, hashes).clamp_max(len(self.hashes) - 1)
        is_known = (self.words[place] == words).all(1)
        points = self.classifier.weight
        classes = torch.where(is_known, self.labels[place], choices(hashes, len(points)))
        if self.weakly_collapsed:
            return points[classes]
        scattered = uniforms(hashes, len(points)).to(points.dtype)
        return torch.where(is_known[:, None], points[classes], scattered)

    def forward(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        return self.classifier(self.features(inputs))


def _identity_classifier(num_classes: int) -> nn.Linear:
    """Returns its k features as they are; not trained, and takes nothing from the shared random generator."""
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
            "mend the labels or num_classes"
        )


def _check_twins(same: Tensor, labels: Tensor, order: Tensor) -> None:
    """Refuse equal neighbours (in the order of hashes) that differ in their label."""
    clashes = (same & (labels[1:] != labels[:-1])).nonzero()
    if len(clashes):
        at = int(clashes[0])
        raise InputError(
            f"Memoriser: training samples {int(order[at])} and {int(order[at + 1])} are equal but labelled "
            f"{int(labels[at])} and {int(labels[at + 1])}; no function of the input has both, leave one out"
        )
