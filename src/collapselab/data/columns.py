"""Which columns of a table are the inputs, and which one is the labels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from collapselab.errors import InputError

_LABEL_COLUMNS = ("label", "labels", "fine_label")
# Names that say it of columns of any type: of names of classes, of one-hot rows.
_TARGET_COLUMNS = (*_LABEL_COLUMNS, "class", "target", "targets", "category", "cls", "y")
_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png")
_TEXT_COLUMNS = ("text", "sentence", "content", "review", "txt")

Features = Any  # datasets.Features: a dictionary of types


@dataclass(frozen=True)
class Columns:
    """The columns that are read.

    Attributes:
        kind: of the inputs.
        inputs: one column of images or texts, or all columns of numbers.
        label: column of labels.
        names: names of labels 0, 1, …, where the table has them.
    """

    kind: Literal["image", "text", "values"]
    inputs: tuple[str, ...]
    label: str
    names: tuple[str, ...] | None


def find_columns(features: Features, where: str | Path) -> Columns:
    """Find the columns of inputs (images, else texts, else numbers) and of labels.

    Raises:
        InputError: several columns of images or texts, no inputs, no column of labels.
    """
    import datasets

    held = ", ".join(f"{name} ({_type_name(kind)})" for name, kind in features.items())
    label = _label_column(features)
    if label is None:
        raise InputError(
            f"{where}: no column of labels among {held}; add a ClassLabel, or whole numbers or names called label"
        )
    kind = features[label]
    names = tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else None
    images = [name for name, one in features.items() if isinstance(one, datasets.Image)]
    texts = [name for name, one in features.items() if name != label and _is(one, r"(large_)?string")]
    texts = [name for name in texts if not name.startswith("__")]  # of WebDataset: keys and addresses
    values = [name for name, one in features.items() if name != label and _is(one, r"u?int\d+|float\d+|bool")]
    if images:
        return Columns("image", (_one_of(images, _IMAGE_COLUMNS, "images", held, where),), label, names)
    if texts:
        return Columns("text", (_one_of(texts, _TEXT_COLUMNS, "text", held, where),), label, names)
    if values:
        return Columns("values", tuple(values), label, names)
    raise InputError(
        f"{where}: no column of images, text or numbers among {held}; keep one of these beside {label}"
    )


def _label_column(features: Features) -> str | None:
    import datasets

    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    numbers = [name for name, kind in features.items() if _is(kind, r"u?int\d+")]
    # `label` comes before `fine_label`: a data set with both is known by the former.
    found = [name for name in _LABEL_COLUMNS if name in classes + numbers] or classes
    found = found or [name for name in _TARGET_COLUMNS if name in features]
    return found[0] if found else None


def _one_of(found: list[str], usual: tuple[str, ...], what: str, held: str, where: str | Path) -> str:
    chosen = [name for name in found if name in usual] or found
    if len(chosen) != 1:
        raise InputError(f"{where}: {len(chosen)} columns of {what} among {held}; keep one of them")
    return chosen[0]


def _is(kind: Any, pattern: str) -> bool:
    import datasets

    return isinstance(kind, datasets.Value) and re.fullmatch(pattern, kind.dtype) is not None


def _type_name(kind: Any) -> str:
    return (
        str(getattr(kind, "dtype", None) or type(kind).__name__) if _is(kind, ".*") else type(kind).__name__
    )
