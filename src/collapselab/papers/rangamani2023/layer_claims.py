"""Claims about the layers of a network at the end of training, with statistics of batch norm over the whole train set.

Collapsed layers are those from the first on at which, and behind which, the within-class share of the variance is below 0.2.
They are compared with the layers before them that are equally wide, and with themselves at initialisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from collapselab.experiments.claims.claim import NotAsked, Void
from collapselab.experiments.claims.judges import at_end, correlates, gap
from collapselab.frames import groups, numbers, rows_that, rows_where
from collapselab.papers.rangamani2023.layer_rows import RECALIBRATED, RUNNING
from collapselab.text import words

_PER: dict[str, Any] = {"per": ("dataset", "model")}
_ANY = (1.0, 1.5, 3.0)  # bounds of a ratio
_IN, _BEFORE, _START = "in_collapsed_layers", "before_them", "in_these_layers_at_initialisation"


def end_of(rows: pd.DataFrame, norms: str = RECALIBRATED) -> pd.DataFrame:
    """Return the rows of the last step in order of depth."""
    own = rows_where(rows, norms=norms)
    return rows_where(own, step=own["step"].max()).sort_values("depth")


def _start_of(rows: pd.DataFrame) -> pd.DataFrame:
    own = rows_where(rows, norms=RECALIBRATED)
    return rows_where(own, step=own["step"].min()).sort_values("depth")


def _row(**values: float) -> pd.DataFrame:
    return pd.DataFrame([values], dtype="float64")


def last_two(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the larger share of the last two layers, with both statistics of batch norm."""
    name = "larger_within_class_share_of_the_last_two_layers"
    both = (
        end_of(rows, norms)["normalized_within"].tail(2).max(skipna=False)
        for norms in (RECALIBRATED, RUNNING)
    )
    return _row(**dict(zip((name, f"{name}_with_running_statistics"), both, strict=True)))


def _collapsed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the collapsed layers.

    Raises:
        NotAsked: there are none.
    """
    found = rows_that(rows, rows["is_collapsed"].astype(bool))
    if found.empty:
        raise NotAsked("the last layer is not collapsed")
    return found


def against_before(*metrics: str, same_shape: bool = False) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return one row: means of metrics over the collapsed layers, and over the layers of the same width before them.

    Where several widths have layers of both kinds, means are taken within a width first.

    Args:
        metrics: columns.
        same_shape: whether the classifier is left out, whose weight has another shape than those of other layers.

    Raises:
        NotAsked: there are no such layers.
    """

    def select(rows: pd.DataFrame) -> pd.DataFrame:
        end = end_of(rows)
        _collapsed(end)
        compared = rows_that(end, ~end["is_last"].astype(bool)) if same_shape else end
        found = [pair for pair in _by_width(compared, metrics)]
        if not found:
            raise NotAsked("no collapsed layer is as wide as one before them")
        return pd.DataFrame([pd.DataFrame(found).mean(skipna=False)])

    return select


def _by_width(end: pd.DataFrame, metrics: tuple[str, ...]) -> Iterator[dict[str, float]]:
    """Yield a row per width that has layers of both kinds; what the network itself reads is no layer of its own."""
    for _, part in groups(rows_that(end, end["depth"] > 0), "dim"):
        kinds = {
            name: rows_where(part, is_collapsed=is_it) for name, is_it in ((_IN, True), (_BEFORE, False))
        }
        if all(map(len, kinds.values())):
            yield {
                f"{metric}_{name}": float(own[metric].mean(skipna=False))
                for metric in metrics
                for name, own in kinds.items()
            }


def against_start(*metrics: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return one row: means of metrics over the collapsed layers, and over the same layers at initialisation."""

    def select(rows: pd.DataFrame) -> pd.DataFrame:
        now, start = _collapsed(end_of(rows)), _start_of(rows)
        before = rows_that(start, start["layer"].isin(now["layer"]))
        kinds = {_IN: now, _START: before}
        return _row(
            **{
                f"{metric}_{name}": own[metric].mean(skipna=False)
                for metric in metrics
                for name, own in kinds.items()
            }
        )

    return select


def gain(
    select: Callable[[pd.DataFrame], pd.DataFrame], metric: str, other: str
) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Add how much larger a metric is in the collapsed layers."""

    def with_gain(rows: pd.DataFrame) -> pd.DataFrame:
        row = select(rows)
        return row.assign(
            **{f"{metric}_{_IN}_less_{other}": row[f"{metric}_{_IN}"] - row[f"{metric}_{other}"]}
        )

    return with_gain


def _better(
    metric: str,
    other: str,
    says: str,
    id: str,
    where: str,
    above: tuple[float, ...] = (0.0, 0.05, 0.1),
    *,
    same_shape: bool = False,
) -> Any:
    """A metric is larger in the collapsed layers than before them, or than at initialisation."""
    select = against_start(metric) if other == _START else against_before(metric, same_shape=same_shape)
    shown = (f"{metric}_{_IN}", f"{metric}_{other}")
    return at_end(
        f"{metric}_{_IN}_less_{other}",
        says,
        above,
        scale="difference",
        beside=shown,
        rows=gain(select, metric, other),
        id=id,
        where=where,
        **_PER,
    )


def _of_collapsed(metric: str, how: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return one row: the mean, or the least value, over the collapsed layers, now and at initialisation.

    Of weights, the classifier's is left out, which has another shape.
    """

    def select(rows: pd.DataFrame) -> pd.DataFrame:
        found, start = _collapsed(end_of(rows)), _start_of(rows)
        found = rows_that(found, ~found["is_last"].astype(bool)) if metric.startswith("weight") else found
        if found.empty:
            raise NotAsked("only the classifier reads collapsed features")
        kinds = {_IN: found, _START: rows_that(start, start["layer"].isin(found["layer"]))}
        return _row(
            **{
                f"{how}_{metric}_{name}": getattr(own[metric], how)(skipna=False)
                for name, own in kinds.items()
            }
        )

    return select


def standing_out(rows: pd.DataFrame) -> pd.DataFrame:
    """Return singular values C - 1 and C + 1 of the weights of collapsed layers, over the largest: means without the classifier.

    Number C may belong to either side: it is 0 where the weight reads only centred class means.
    """
    found = _collapsed(end_of(rows))
    found = rows_that(found, ~found["is_last"].astype(bool))
    if found.empty:
        raise NotAsked("only the classifier reads collapsed features")
    classes = int(found["num_classes"].iloc[0])
    last, other = (
        found[f"singular_value_{rank}"] / found["singular_value_1"] for rank in (classes - 1, classes + 1)
    )
    return _row(
        singular_value_C_less_1=last.mean(skipna=False), singular_value_C_plus_1=other.mean(skipna=False)
    )


def hunchback(column: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return one row: the largest stable rank of a layer between the first and the last, and the larger one of these two.

    Args:
        column: `stable_rank_per_class`, as in the paper, or `stable_rank`, pooled over classes.

    Raises:
        NotAsked: some layers have no value; those of very wide layers need more memory than there is.
    """

    def select(rows: pd.DataFrame) -> pd.DataFrame:
        ranks = end_of(rows)[column]
        if ranks.isna().any():
            raise NotAsked(f"the {words(column)} of some layers was not measured")
        if len(ranks) < 3:
            raise Void("fewer than three layers")
        inside, ends = ranks.iloc[1:-1].max(), ranks.iloc[[0, -1]].max()
        return _row(largest_stable_rank_between=inside, larger_stable_rank_of_the_first_and_last_layer=ends)

    return select


def before_additions(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean alignment of the last convolution of a block, less that of the others of the block: mean of all blocks."""
    end = end_of(rows)
    names = end["layer"].str.extract(r"^(?P<block>layer\d+\.\d+)\.conv(?P<place>\d+)$")
    inside = end.assign(**names).dropna(subset=["block"])
    pairs = []
    for _, block in groups(inside, "block"):
        last = block["place"] == block["place"].max()
        parts = (rows_that(block, is_it) for is_it in (last, ~last))
        pairs.append([float(np.mean(numbers(part, "alignment"))) for part in parts])
    if not pairs:
        raise NotAsked("no residual blocks")
    just_before, others = pd.DataFrame(pairs).mean(skipna=False)
    return _row(alignment_just_before_an_addition_less_inside_its_block=just_before - others, alignment_just_before_an_addition=just_before,
                alignment_inside=others)  # fmt: skip


def memory(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the last layer, if it is collapsed."""
    last = _collapsed(end_of(rows)).tail(1)
    names = {
        "memory_cosine": "cosine_of_memory_and_classifier",
        "test_memory_recall": "test_recall_of_the_memory",
    }
    return last.drop(columns="step").rename(columns=names)


_PAIRED = "The paper's sentence has two readings; the other one, that what a block reads is aligned best, has the opposite sign in blocks of two layers."
_RANDOM = "The largest singular values of a random square matrix are nearly equal too: the claim says something only beside that of low rank."
_C_LESS_1 = "The paper's sentence is about the top C singular values. At collapse, number C is 0, so that this project takes C - 1."
_TWICE = partial(gap, decades=(0.0, 0.1, 0.3), **_PER)
_RISES = partial(_TWICE, "largest_stable_rank_between", "larger_stable_rank_of_the_first_and_last_layer")

CLAIMS = (
    at_end("larger_within_class_share_of_the_last_two_layers", "At least the last two layers are collapsed: their within-class share is below 0.2.",
           below=(0.2, 0.1, 0.3), beside="larger_within_class_share_of_the_last_two_layers_with_running_statistics", rows=last_two,
           id="collapsed-layers", where="Fig. 1", **_PER),
    correlates("depth", "normalized_within", "The within-class share of the variance falls with depth.", sign=-1, rows=end_of, id="share-by-depth",
               where="Fig. 1", **_PER),
    _TWICE(f"etf_distance_{_BEFORE}", f"etf_distance_{_IN}", "Class means are closer to a simplex in collapsed layers than in layers of the same width before them.",
           rows=against_before("etf_distance"), id="simplex-by-layer", where="Fig. 2"),
    _TWICE(f"etf_distance_{_START}", f"etf_distance_{_IN}", "Class means of collapsed layers are closer to a simplex than at initialisation.",
           rows=against_start("etf_distance"), id="simplex-by-training", where="Fig. 2"),
    _better("alignment", _BEFORE, "Class means and weights are better aligned in collapsed layers than in layers of the same width before them.",
            "alignment-by-layer", "Fig. 3"),
    _better("alignment", _START, "Class means and weights of collapsed layers are better aligned than at initialisation.", "alignment-by-training",
            "Fig. 3", (0.1, 0.0, 0.3)),
    at_end(f"mean_weight_top_spread_{_IN}", "The C - 1 largest singular values of a weight are nearly equal in collapsed layers: on average over these, std / mean is below 0.1.",
           below=(0.1, 0.05, 0.2), rows=_of_collapsed("weight_top_spread", "mean"), id="equal-singular-values", where="Fig. 5",
           beside=f"mean_weight_top_spread_{_START}", notes=(_RANDOM, _C_LESS_1), **_PER),
    gap("singular_value_C_less_1", "singular_value_C_plus_1", "The largest singular values stand out in collapsed layers: number C - 1 is more than 1.5 times number C + 1.",
        decades=(math.log10(1.5), math.log10(1.2), math.log10(2)), rows=standing_out, id="leading-singular-values", where="Fig. 5, sec. 5.2", **_PER),
    _TWICE(f"weight_stable_rank_{_BEFORE}", f"weight_stable_rank_{_IN}", "Weights have a lower stable rank in collapsed layers than in layers of the same width before them.",
           rows=against_before("weight_stable_rank", same_shape=True), id="low-rank-weights", where="Fig. 5"),
    at_end(f"min_test_ncc_agreement_{_IN}", "The nearest class mean decides as the network on over 95 % of test samples, in every collapsed layer.",
           above=(0.95, 0.9, 0.99), scale="difference", rows=_of_collapsed("test_ncc_agreement", "min"), id="nearest-class-mean", where="Fig. 4", **_PER),
    _better("test_ncc_agreement", _BEFORE, "The nearest class mean decides as the network on more test samples in collapsed layers than in layers of the same width before them.",
            "nearest-class-mean-by-layer", "Fig. 4", (0.0, 0.02, 0.05)),
    _RISES("The stable rank of features of a class, averaged over classes, is largest in a layer between the input and the last one.",
           rows=hunchback("stable_rank_per_class"), id="hunchback", where="Fig. 5, sec. 5.2"),
    _RISES("The stable rank of features within classes, pooled, is largest in a layer between the input and the last one.",
           rows=hunchback("stable_rank"), id="hunchback-pooled", where="our own addition"),
    at_end("alignment_just_before_an_addition_less_inside_its_block", "In a ResNet, weights just before an addition are better aligned than others of the same block.",
           (0.0, 0.05, 0.1), scale="difference", beside=("alignment_just_before_an_addition", "alignment_inside"), rows=before_additions,
           id="before-additions", where="Fig. 3, sec. 5.1", only={"model": "resnet*"}, notes=(_PAIRED,), **_PER),
    at_end("cosine_of_memory_and_classifier", "Where the last layer is collapsed, the associative memory is nearly the classifier's weight: their cosine is above 0.9.",
           (0.9, 0.8, 0.95, 0.99), scale="difference", beside=("test_recall_of_the_memory", "test_accuracy"), rows=memory, id="associative-memory",
           where="Remark 6.1", **_PER),
)  # fmt: skip
