"""What a loader yields and what a model returns, in the forms that users have."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from collapselab.distributed import rank_and_world
from collapselab.errors import InputError

# Positions with this label (as in torch's own losses) are padding: no samples.
IGNORED_LABEL = -100
_LABEL_KEYS = ("labels", "label", "targets", "target", "y")
_LOGIT_KEYS = ("logits", "out", "output", "outputs", "scores", "pred", "prediction")

# One batch as the loader yields it -> what the model is called with, and the labels.
SplitBatch = Callable[[Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Batch:
    """One batch on the model's device.

    Attributes:
        number: from 0, as the loader counts.
        inputs: what the model is called with: a mapping by keyword, a tuple by position, else one argument.
        labels: of any shape; one per sample, or one per token.
        mask: (n, tokens), true where a token is not padding, where the inputs tell.
    """

    number: int
    inputs: Any
    labels: Tensor
    mask: Tensor | None

    @property
    def kept(self) -> Tensor | None:
        """Mask over flattened labels of those that count; None where all do."""
        ignored = self.labels.flatten() == IGNORED_LABEL
        return ~ignored if bool(ignored.any()) else None

    @property
    def classes(self) -> Tensor:
        """Labels that count, one per row of features."""
        kept = self.kept
        return self.labels.flatten() if kept is None else self.labels.flatten()[kept]

    def run(self, model: nn.Module) -> Any:
        if isinstance(self.inputs, Mapping):
            return model(**self.inputs)
        return model(*self.inputs) if isinstance(self.inputs, tuple) else model(self.inputs)


class Readable:
    """A loader that can be looked into before it is read, and that yields this process's share of its batches.

    Among several processes a loader that is no share already is dealt out batch by batch; of a `DistributedSampler`
    the samples that it repeats to make shares even are labelled as padding.

    Args:
        loader: yields batches; an iterator can be read once.
        device: where batches are put.
        split_batch: see `collapselab.probes.profile`.
        where: the name of the split, for errors.
    """

    def __init__(
        self, loader: Iterable[Any], device: torch.device, split_batch: SplitBatch | None, where: str
    ) -> None:
        self._loader, self._device, self._split_batch, self._where = loader, device, split_batch, where
        self._begun: Iterator[Any] | None = None
        self.is_spent = False

    def first(self) -> Batch:
        """The first batch, whichever process it is for; it will be read again.

        Raises:
            InputError: there is none, or it is no inputs with labels.
        """
        begun = iter(self._loader)
        for raw in begun:
            self._begun = itertools.chain([raw], begun)
            return self._batch(raw, 0)
        of_all = getattr(self._loader, "first_of_all", None)
        if of_all is not None and _is_share(self._loader):
            return self._batch(of_all(), 0)
        raise InputError(f"{self._where}: the loader yields nothing")

    def read(self) -> Iterator[Batch]:
        """This process's batches.

        Raises:
            InputError: a batch that is no inputs with labels; labels that are no whole numbers.
        """
        begun, self._begun = self._begun, None
        raw_batches = iter(self._loader) if begun is None else begun
        self.is_spent = isinstance(self._loader, Iterator)
        rank, world = rank_and_world()
        dealt = 1 if _is_share(self._loader) else world
        left = _distinct_samples(self._loader)
        for number, raw in enumerate(raw_batches):
            if number % dealt != rank % dealt:
                continue
            batch = self._batch(raw, number)
            if left is not None:
                if len(batch.labels) > left:
                    labels = batch.labels.clone()
                    labels[left:] = IGNORED_LABEL
                    batch = dataclasses.replace(batch, labels=labels)
                left -= min(left, len(batch.labels))
            yield batch

    def _batch(self, raw: Any, number: int) -> Batch:
        return read_batch(raw, number, self._device, self._split_batch, self._where)


def read_batch(
    raw: Any, number: int, device: torch.device, split_batch: SplitBatch | None, where: str
) -> Batch:
    """One batch as a loader yields it, checked and on `device`.

    Raises:
        InputError: as `read_batches`.
    """
    place = f"{where}, batch {number}"
    inputs, labels = split_batch(raw) if split_batch else _split(raw, place)
    if not isinstance(labels, Tensor):
        try:
            labels = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{place}: labels are a {type(labels).__name__} and no whole numbers") from error
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.ndim == 0:
        raise InputError(
            f"{place}: labels have dtype {labels.dtype} and shape {tuple(labels.shape)}; give whole numbers, one per "
            "sample"
        )
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return Batch(
        number=number,
        inputs=_to_device(inputs, device),
        labels=labels.to(device=device, dtype=torch.int64),
        mask=mask.to(device).bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None,
    )


def _is_share(loader: Any) -> bool:
    """Whether the loader yields this process's share of the data only."""
    sampler = getattr(loader, "sampler", None)
    return isinstance(sampler, DistributedSampler) or bool(getattr(loader, "is_share", False))


def _distinct_samples(loader: Any) -> int | None:
    """How many samples of a `DistributedSampler`'s share come before those it repeats; None for other loaders."""
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or sampler.drop_last:
        return None
    # The share is every num_replicas-th of a list that begins with each sample once.
    return -(-(len(sampler.dataset) - sampler.rank) // sampler.num_replicas)  # pyright: ignore[reportArgumentType] the sampler itself takes its length


def _split(raw: Any, place: str) -> tuple[Any, Any]:
    if isinstance(raw, Mapping):
        for key in _LABEL_KEYS:
            if key in raw:
                return {name: value for name, value in raw.items() if name != key}, raw[key]
        raise InputError(
            f"{place}: a mapping with the keys {sorted(map(str, raw))} and none of {', '.join(_LABEL_KEYS)}; "
            "give split_batch= to say what the labels are"
        )
    if isinstance(raw, list | tuple) and len(raw) >= 2:
        *inputs, labels = raw
        return (inputs[0] if len(inputs) == 1 else tuple(inputs)), labels
    raise InputError(
        f"{place}: a {type(raw).__name__}, not inputs with labels; yield (inputs, labels) or a mapping, or give "
        "split_batch="
    )


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _to_device(item, device) for name, item in value.items()}
    if isinstance(value, list | tuple):
        moved = [_to_device(item, device) for item in value]
        return moved if isinstance(value, list) else tuple(moved)
    return value


def logits_of(output: Any, labels: Tensor) -> Tensor | None:
    """The class scores among what a model returned: labels.shape + (outputs,); None where nothing has that shape.

    A tensor, the `logits` of a mapping or an output object of `transformers`, or the first of a tuple that fits.
    Scores of images at positions, (n, outputs, …), have their classes moved last.
    """
    for candidate in _candidates(output):
        if candidate.shape[:-1] == labels.shape:
            return candidate
        if labels.ndim > 1 and candidate.ndim == labels.ndim + 1:
            moved = candidate.movedim(1, -1)
            if moved.shape[:-1] == labels.shape:
                return moved
    return None


def _candidates(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.ndim:
            yield output
    elif isinstance(output, Mapping):
        keys = [key for key in _LOGIT_KEYS if key in output]
        for key in (*keys, *(key for key in output if key not in keys)):
            yield from _candidates(output[key])
    elif isinstance(output, list | tuple):
        for item in output:
            yield from _candidates(item)
    elif hasattr(output, "logits"):
        yield from _candidates(output.logits)


def known_labels(loader: Any) -> Tensor | None:
    """The labels of all samples that a pass over `loader` yields, in any order, where they can be told without one.

    That is so of loaders with `labels` of their own (`collapselab.data`), and of a `DataLoader` that visits each
    sample of a data set with known labels once.
    """
    if isinstance(getattr(loader, "labels", None), Tensor):
        return loader.labels
    if not isinstance(loader, DataLoader) or loader.drop_last or loader.batch_size is None:
        return None
    sampler = loader.sampler
    plain = isinstance(sampler, SequentialSampler | DistributedSampler) or (
        isinstance(sampler, RandomSampler)
        and not sampler.replacement
        and sampler.num_samples == len(sampler.data_source)
    )
    if not plain or (isinstance(sampler, DistributedSampler) and sampler.drop_last):
        return None
    labels = _labels_of_dataset(loader.dataset)
    fits = labels is not None and labels.ndim == 1 and len(labels) == len(loader.dataset)  # pyright: ignore[reportArgumentType] a plain sampler needs a length
    return labels.long() if fits and labels is not None else None


def _labels_of_dataset(dataset: Any) -> Tensor | None:
    if isinstance(dataset, Subset):
        labels = _labels_of_dataset(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(dataset.indices)]
    if isinstance(dataset, TensorDataset):
        return _whole(dataset.tensors[-1])
    if getattr(dataset, "target_transform", None) is not None:
        return None
    for key in ("labels", "targets"):
        if hasattr(dataset, key):
            return _whole(getattr(dataset, key))
    names = getattr(dataset, "column_names", None)
    if isinstance(names, list):  # of the `datasets` library
        for key in _LABEL_KEYS:
            if key in names:
                return _whole(dataset.with_format(None)[key][:])
    return None


def _whole(labels: Any) -> Tensor | None:
    try:
        tensor = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if tensor.is_floating_point() or tensor.dtype == torch.bool else tensor
