"""Parts of a batch: some of its samples, or other lengths of its sequences and sizes of its maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from collapselab.probes.containers import field_names, rebuilt

# Keys and positions that lead to a value in nested containers.
Path = tuple[str | int, ...]
# The axis of each input that holds samples; inputs that are not listed are passed on whole.
Choice = dict[Path, int]


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield tensors and what else can be divided into samples (packed sequences, lists without tensors)."""
    if isinstance(value, Tensor | PackedSequence):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list | tuple):
        inner = [found for number, item in enumerate(value) for found in leaves(item, (*path, number))]
        yield from inner or [(path, value)]
    else:
        for name in field_names(value):
            yield from leaves(getattr(value, name), (*path, name))


def changed(value: Any, change: Callable[[Path, Any], Any], path: Path = ()) -> Any:
    """Return nested containers with every leaf replaced by `change(path, leaf)`."""
    first = next(leaves(value, path), None)
    if first is not None and first[0] == path:
        return change(path, value)
    return rebuilt(value, lambda key, part: changed(part, change, (*path, key)))


def axes_of_length(leaf: Any, length: int) -> list[int]:
    """Return the axes of an input that could hold `length` samples."""
    if isinstance(leaf, Tensor) and (leaf.is_nested or hasattr(leaf, "get_mask")):
        return []  # these cannot be divided
    if isinstance(leaf, Tensor):
        return [axis for axis, size in enumerate(leaf.shape) if size == length]
    count = int(leaf.batch_sizes[0]) if isinstance(leaf, PackedSequence) else len(leaf)
    return [0] if count == length else []


def take_samples(inputs: Any, choice: Choice, index: Tensor) -> Any:
    """Return the inputs of the samples `index`.

    Args:
        index: (m,) numbers of samples, in any order and repeated where wanted.
    """

    def take(path: Path, leaf: Any) -> Any:
        if path not in choice:
            return leaf
        if isinstance(leaf, Tensor):
            return _selected(leaf, choice[path], index.to(leaf.device))
        if isinstance(leaf, PackedSequence):
            padded, lengths = pad_packed_sequence(leaf)
            return pack_padded_sequence(
                padded[:, index.to(padded.device)], lengths[index], enforce_sorted=False
            )
        return type(leaf)(leaf[number] for number in index.tolist())

    return changed(inputs, take)


def _selected(tensor: Tensor, axis: int, index: Tensor) -> Tensor:
    if tensor.layout in (torch.strided, torch.sparse_coo):
        return tensor.index_select(axis, index)
    part = tensor.to_sparse_coo().index_select(axis, index)
    return part.to_sparse_csr() if tensor.layout == torch.sparse_csr else part.to_sparse_csc()


def resize_positions(inputs: Any, cuts: dict[Path, dict[int, int]]) -> Any:
    """Return inputs with axes of other lengths: shortened, or continued by repeating what they hold.

    Args:
        cuts: for each input, the new length of its axes.
    """

    def resize(path: Path, leaf: Any) -> Any:
        for axis, length in cuts.get(path, {}).items():
            index = torch.arange(length, device=leaf.device) % leaf.shape[axis]
            leaf = leaf.index_select(axis, index)
        return leaf

    return changed(inputs, resize)
