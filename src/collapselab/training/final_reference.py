"""The three variances of Hui et al. at every measured step, relative to class means (k-means centres) of the last step.

Train and strong test variance are computed from stored class means and scatters; weak test variance from test features of
the last layer, which were stored at every measured step for this purpose.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from collapselab.metrics.generalization import Reference, labelled_variance
from collapselab.records.rows import FinalReferenceRow, Split, Values, final
from collapselab.records.run_folder import RunFolder
from collapselab.training.weak_variance import Centres, fit_centres

_LABELLED: dict[Split, str] = {"train": "train_variance", "test": "strong_test_variance"}


def final_reference_rows(folder: RunFolder, num_classes: int) -> Iterator[FinalReferenceRow]:
    """Yield one row per measured step, layer and split.

    Args:
        folder: of a run that ended.
        num_classes: k of k-means.
    """
    rows = folder.read_rows()
    if not rows:  # training diverged before the first measurement
        return
    steps = sorted({row.step for row in rows})
    layers = sorted({(row.depth, row.layer) for row in rows})
    references = folder.read_statistics(steps[-1])
    features = folder.read_features(steps[-1])
    centres = None if features is None else fit_centres(features, num_classes)
    for step in steps:
        now = folder.read_statistics(step)
        for depth, layer in layers:
            for split, name in _LABELLED.items():
                weak = centres if split == "test" and depth == layers[-1][0] else None
                values: Values = {final(name): _labelled(now, references, f"{split}/{layer}")}
                if weak is not None:
                    values |= _weak(folder, step, weak)
                yield FinalReferenceRow(
                    step=step,
                    split=split,
                    layer=layer,
                    depth=depth,
                    metrics=values,
                    warnings=() if weak is None else weak.warnings,
                )


def _labelled(now: dict[str, Tensor], references: dict[str, Tensor], place: str) -> float | None:
    return labelled_variance(
        now[f"{place}/counts"],
        now[f"{place}/class_means"],
        now[f"{place}/class_variances"],
        Reference(references[f"{place}/class_means"]),
    )


def _weak(folder: RunFolder, step: int, centres: Centres) -> Values:
    features = folder.read_features(step)
    return {final("weak_test_variance"): None if features is None else centres.variance(features)}
