"""An open data set: one object with splits, labels and classes, for every storage format."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from collapselab.choices import Standardize
from collapselab.data.digits import DigitValues, images_of
from collapselab.data.labelled import Inputs, LabelledData, TensorInputs
from collapselab.data.names import VALIDATION, NamedData
from collapselab.data.pixels import Pixels
from collapselab.data.stored import ImageSource, Store, TextSource, ValueSource, ordered_splits
from collapselab.data.stratified import stratified_rows
from collapselab.data.transformed import ImageTransform, Tokenize, Tokens, TransformedImages
from collapselab.errors import InputError, printable

_SUBSET_SEED = 0
_Rows = npt.NDArray[np.int64]


class DataSet:
    """A data set that has been found; `collapselab.data.open_data_set` makes one.

    Labels are read once, when they are first needed; inputs are read through the splits that `open` returns.

    Args:
        name: what the data set is called.
        where: its path or hub id, for messages.
        store: the form it is stored in.
        splits: names of its splits, each with its name in the store; default the same names.
        known: the data set of a short name that this is a copy of.

    Attributes:
        name: what the data set is called.
        notes: which stored splits are used under another name, or not at all.
    """

    def __init__(
        self,
        name: str,
        where: str,
        store: Store,
        splits: Mapping[str, str] | None = None,
        known: NamedData | None = None,
    ) -> None:
        self.name = name
        self._where, self._store, self._known = where, store, known
        self._stored_names, notes = _with_test(
            {split: split for split in store.splits} if splits is None else splits
        )
        self.notes = tuple(f"{name}: {note}" for note in (*store.notes, *notes))
        self._labels: dict[str, _Rows] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, train and test first where there are such."""
        return ordered_splits(self._stored_names)

    @cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of labels 0, 1, …; labels that had gaps are named by what they were; None for plain numbers."""
        names = self._store.class_names
        if names is None and self._gaps is not None:
            names = tuple(str(value) for value in self._gaps.tolist())
        names = names or (None if self._known is None else self._known.class_names)
        return None if names is None else tuple(map(printable, names))

    @cached_property
    def num_classes(self) -> int:
        """Size of the label space that all splits share.

        Raises:
            InputError: not as many as the data set of the short name has.
        """
        names = self._store.class_names
        count = len(self._label_values) if names is None else len(names)
        if self._known is not None and self._known.num_classes != count:
            raise InputError(
                f"{self._where}: {count} classes, but {self.name} has {self._known.num_classes}; give a copy of "
                f"{self.name}, or open this one by its path"
            )
        return count

    def labels(self, split: str) -> _Rows:
        """Labels (n,) of a split, 0 … `num_classes` - 1; labels with gaps are renumbered in ascending order.

        Raises:
            InputError: no such split; labels that are missing, no whole numbers, negative or beyond the classes.
        """
        if split not in self._stored_names:
            raise InputError(f"{self.name}: no split {split!r}; it has {', '.join(self.splits)}")
        labels = self._stored_labels(self._stored_names[split])
        if self._store.class_names is not None or self._gaps is None:
            return labels
        return np.searchsorted(self._gaps, labels).astype(np.int64)

    def open(
        self,
        split: str = "train",
        *,
        image_size: tuple[int, int] | None = None,
        channels: int | None = None,
        limit: int | None = None,
        rows: _Rows | None = None,
        standardize: Standardize = "channel",
        reference: LabelledData | None = None,
        transform: ImageTransform | None = None,
        tokenize: Tokenize | None = None,
    ) -> LabelledData:
        """Open one split, its images not yet read; the arguments are those of `collapselab.data.open_data`.

        Args:
            split, image_size, channels, limit, rows, standardize, reference: see there.
            transform: makes the input of an image instead of resizing and standardising.
            tokenize: makes the inputs of texts, which need it.

        Raises:
            InputError: what is wrong with the data, the split or the arguments, in one line.
        """
        _check_form(image_size, channels, limit, rows, self.name)
        labels = self.labels(split)
        num_classes = self.num_classes
        chosen = _chosen(labels, limit, rows, f"{self.name}, {split}")
        content = self._store.content(self._stored_names[split])
        inputs: Inputs
        if isinstance(content, TextSource):
            if tokenize is None:
                raise InputError(
                    f"{self._where}: holds texts; give a network with a tokenizer, such as transformers/ID"
                )
            before = None if reference is None else reference.inputs
            inputs = Tokens(content, chosen, tokenize, before if isinstance(before, Tokens) else None)
        elif tokenize is not None:
            raise InputError(
                f"{self._where}: holds no texts, which the network reads; give a data set of texts"
            )
        elif isinstance(content, ImageSource) and transform is not None:
            inputs = TransformedImages(content, chosen, transform)
        elif transform is not None:
            raise InputError(
                f"{self._where}: holds no images, which the network's own preprocessing needs; give preprocess=False"
            )
        elif isinstance(content, ImageSource) and not isinstance(content, ValueSource):
            if reference is None and split != "train" and standardize != "none":
                reference = self._standard(image_size, channels, standardize)
            inputs = Pixels(
                content,
                chosen,
                image_size=image_size,
                channels=channels,
                standardize=standardize,
                reference=_pixels_of(reference, self.name),
            )
        else:
            assert isinstance(content, ValueSource), "the other kinds are handled above"
            values = content.values()[torch.from_numpy(chosen)]
            inputs = TensorInputs(_in_form(values, content, channels, image_size))
        return LabelledData(
            self.name, torch.from_numpy(labels[chosen]), num_classes, self.class_names, inputs
        )

    def _standard(
        self, image_size: tuple[int, int] | None, channels: int | None, standardize: Standardize
    ) -> LabelledData:
        """The whole train split, whose statistics another split is standardised with."""
        if "train" not in self._stored_names:
            raise InputError(
                f"{self.name}: no split 'train' to standardise with; add it, or give standardize='none'"
            )
        return self.open("train", image_size=image_size, channels=channels, standardize=standardize)

    def _stored_labels(self, stored: str) -> _Rows:
        if stored not in self._labels:
            self._labels[stored] = self._store.labels(stored)
        return self._labels[stored]

    @cached_property
    def _label_values(self) -> _Rows:
        """Distinct labels of all stored splits, so that train and test share one label space."""
        return np.unique(np.concatenate([self._stored_labels(split) for split in self._store.splits]))

    @cached_property
    def _gaps(self) -> _Rows | None:
        """The distinct labels where they are not 0, 1, …, C - 1; else None."""
        values = self._label_values
        return None if np.array_equal(values, np.arange(len(values))) else values


def _with_test(splits: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return splits by name, each with its stored name; a validation split is the test split if there is no other.

    Also returns notes about what is used and what is not.
    """
    validation = [name for name in VALIDATION if name in splits]
    if not validation or "train" not in splits:
        return dict(splits), []
    used = splits.get("test", splits[validation[0]])
    notes = [] if "test" in splits else [f"there is no test split; {used} is used as the test split"]
    unused = [name for name in validation if splits[name] != used]
    if unused:
        notes.append(
            f"{', '.join(unused)} {'is' if len(unused) == 1 else 'are'} not used; {used} is the test split"
        )
    return {**splits, "test": used}, notes


def _check_form(
    image_size: tuple[int, int] | None, channels: int | None, limit: int | None, rows: _Rows | None, name: str
) -> None:
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit} leaves no samples; give at least 1")
    if channels not in (None, 1, 3):
        raise InputError(f"channels={channels}: give 1 for grey or 3 for colour")
    if image_size is not None and min(image_size) < 1:
        raise InputError(f"image_size={image_size} is empty; give at least 1 x 1")
    if rows is not None and limit is not None:
        raise InputError(f"{name}: limit={limit} and rows= are both given; give one of them")


def _in_form(
    values: Tensor, content: ValueSource, channels: int | None, image_size: tuple[int, int] | None
) -> Tensor:
    """Return values in the form that a network of images reads: digits as images, grey ones with equal channels."""
    if isinstance(content, DigitValues):
        return values if channels is None and image_size is None else images_of(values, channels, image_size)
    if channels == 3 and values.ndim == 3:
        values = values[:, None]
    is_grey = values.ndim == 4 and values.shape[1] == 1
    return values.expand(-1, 3, -1, -1) if channels == 3 and is_grey else values


def _pixels_of(reference: LabelledData | None, name: str) -> Pixels | None:
    if reference is None:
        return None
    if not isinstance(reference.inputs, Pixels):
        raise InputError(
            f"{name}: images, but the training data {reference.name!r} are not; give training images"
        )
    return reference.inputs


def _chosen(labels: _Rows, limit: int | None, rows: _Rows | None, where: str) -> _Rows:
    """Row numbers, ascending: those asked for, else `limit` of them, of every class."""
    count = len(labels)
    if rows is None:
        return stratified_rows(labels, count if limit is None else limit, _SUBSET_SEED, where)
    if rows.ndim != 1 or not len(rows) or rows.dtype.kind != "i":
        raise InputError(
            f"{where}: rows are {rows.dtype} of shape {rows.shape}; give row numbers, int64 (n,), one or more"
        )
    if rows[0] < 0 or (np.diff(rows) <= 0).any() or rows[-1] >= count:
        raise InputError(
            f"{where}: rows go from {rows.min()} to {rows.max()}, not ascending or outside 0 … {count - 1}; give each row "
            "once, in ascending order"
        )
    return rows
