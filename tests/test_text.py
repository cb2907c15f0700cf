"""Warnings for a reader: those of several layers that differ only in numbers are one line, and none is lost."""

from __future__ import annotations

import pytest

from collapselab.text import grouped

DROPPED = "{}: vci ignores {} of {} eigenvalues, which are below {} times the largest"


@pytest.mark.parametrize(
    ("warnings", "shown"),
    [
        ([], []),
        (["no place", "train: a place"], ["no place", "train: a place"]),
        (
            [
                DROPPED.format("train conv1", 1, 9, "2.3e-13"),
                "train: other",
                DROPPED.format("test conv1", 20, 988, "5e-14"),
            ],
            [
                DROPPED.format("train conv1", 1, 9, "2.3e-13") + ". Similar: test conv1",
                "train: other",
            ],
        ),
        (
            ["train a, train b, train c and 7 more: 9 of 10", "test a, test b, test c and 7 more: 8 of 10"],
            ["9 of 10. Where: train a, train b, train c and 7 more. Similar: test a, test b, test c and 7 more"],
        ),
        (
            [f"train layer{index}: {index} lost" for index in range(6)],
            ["train layer0: 0 lost. Similar: train layer1, train layer2, train layer3 and 2 more"],
        ),
        # Other words, or numbers without a place: different warnings.
        (["train a: vci is undefined", "train a: nc1 is undefined"], ["train a: vci is undefined", "train a: nc1 is undefined"]),
        (["vci: 3 lost", "vci: 4 lost"], ["vci: 3 lost", "vci: 4 lost"]),
        # The same text twice without a place is said once.
        (["no place", "no place"], ["no place"]),
    ],
)  # fmt: skip
def test_warnings_that_differ_in_place_and_numbers_are_one(warnings: list[str], shown: list[str]) -> None:
    assert grouped(warnings) == shown


def test_every_place_is_named_or_counted() -> None:
    merged = grouped(
        f"{split} layers.{depth}: rank {depth}" for split in ("train", "test") for depth in range(20)
    )
    assert merged == [
        "train layers.0: rank 0. Similar: train layers.1, train layers.2, train layers.3 and 36 more"
    ]
