"""Labels that a split may not have, and warnings about those it has: the user's labels are named, not their numbers."""

from __future__ import annotations

import pytest
import torch

from collapselab.errors import InputError
from collapselab.passes.labels import check_declared, check_known, check_two_classes, label_warnings

VALUES = torch.tensor([3, 5, 8, 13])


def counts(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def test_one_class_is_refused_by_its_label() -> None:
    with pytest.raises(
        InputError, match=r"^data\.npz: all labels are 8; neural collapse needs at least two classes$"
    ):
        check_two_classes(counts(0, 0, 7, 0), VALUES, "data.npz")
    check_two_classes(counts(0, 1, 7, 0), VALUES, "data.npz")


def test_labels_that_train_lacks_are_counted_and_the_first_is_named() -> None:
    classes = torch.tensor([0, 2])
    with pytest.raises(
        InputError, match=r"^test: 6 samples have labels that no training sample has, the first is 5"
    ):
        check_known(counts(9, 2, 0, 4), classes, VALUES, "test")
    check_known(counts(9, 0, 0, 0), classes, VALUES, "test")


@pytest.mark.parametrize(("split", "remedy"), [("train", "class_counts="), ("test", "split_batch=")])
def test_other_counts_than_declared_are_refused(split: str, remedy: str) -> None:
    with pytest.raises(
        InputError, match=f"{split}: class 5 was declared with 4 samples but 3 came; give {remedy}"
    ):
        check_declared(counts(1, 3, 0, 2), counts(1, 4, 0, 2), VALUES, split)
    check_declared(counts(1, 3, 0, 2), counts(1, 3, 0, 2), VALUES, split)


def test_missing_classes_and_classes_of_one_sample_are_warned_of() -> None:
    train = torch.tensor([0, 1, 3])
    assert label_warnings(counts(2, 0, 0, 1), train, VALUES) == [
        "1 of the training classes have no samples here, the first is 5",
        "1 classes have one sample and so no variance within the class",
    ]
    assert label_warnings(counts(2, 0, 5, 3), None, VALUES) == []
