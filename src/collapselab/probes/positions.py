"""Find out which axes hold the positions of labels: run a part of the first batch at other lengths or sizes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from torch import Tensor

from collapselab.errors import InputError
from collapselab.probes.axes import Axes, Shape
from collapselab.probes.batches import Batch
from collapselab.probes.geometry import Geometry, Run
from collapselab.probes.inputs import Choice, Path, leaves, resize_positions
from collapselab.user_code import is_out_of_memory

_MAX_RUNS = 4


def find_positions(geometry: Geometry, run: Run, part: Batch | None, choice: Choice) -> None:
    """Run a part of the batch at other lengths, and keep what it did if the outputs followed.

    Args:
        geometry: gets what is found.
        run: runs the model.
        part: some samples of the first batch; None if the model took no part of it.
        choice: axes of the inputs that hold samples.
    """
    lengths = geometry.labels[1:]
    tried = () if part is None else itertools.product(_sizes(lengths), _resizable(part, choice, lengths))
    for sizes, axes in itertools.islice(tried, _MAX_RUNS):
        assert part is not None
        try:
            cut = run(_resized(part, sizes, axes), ())
        except Exception as error:  # of torch, too, which has no class for want of memory on the CPU
            if isinstance(error, InputError) or is_out_of_memory(error):
                continue
            raise
        trial = replace(geometry, cut=cut, sizes=sizes, num_cut=len(part.labels))
        if _outputs_follow(trial):
            geometry.cut, geometry.sizes, geometry.num_cut = cut, sizes, len(part.labels)
            return
    geometry.notes.append(
        "axes of positions are assumed from the kind of layer, as the model was not seen to follow inputs of another size"
    )


def _resized(part: Batch, sizes: Shape, axes: dict[Path, list[int]]) -> Batch:
    lengths = {path: dict(zip(found, sizes, strict=True)) for path, found in axes.items()}
    labels = resize_positions(part.labels, {(): dict(enumerate(sizes, 1))})
    return replace(part, inputs=resize_positions(part.inputs, lengths), labels=labels)


def _outputs_follow(trial: Geometry) -> bool:
    outputs = trial.full.telling_outputs
    # Outputs of another size than the labels tell nothing; then the layers must.
    if any(isinstance(replace(trial, cut=None).of_output(path), Axes) for path in outputs):
        return any(isinstance(trial.of_output(path), Axes) for path in outputs)
    return any(isinstance(trial.of_call(name, channel_axis=-1), Axes) for name in trial.full.calls)


def _sizes(lengths: Shape) -> list[Shape]:
    """Return other lengths to try. Maps grow to multiples, as strides divide them; no two axes get one length."""
    if len(lengths) > 1:
        return [tuple((number + 2) * length for number, length in enumerate(lengths))]
    return [(other,) for length in lengths for other in (length // 2, 2 * length) if other]


def _resizable(part: Batch, choice: Choice, lengths: Shape) -> list[dict[Path, list[int]]]:
    """Return sets of inputs whose positions could be those of the labels, with their axes: the likeliest first.

    Where several inputs are sequences of the same length, such as source and target of a translation, one that suffices
    alone holds the labels' positions, and the last is tried first.
    """
    in_order = _axes_by_input(part, choice, lengths, from_last=len(lengths) > 1)
    masks = {path for path, leaf in leaves(part.inputs) if path in in_order and _is_mask(leaf)}
    alone = [path for path in in_order if path not in masks]
    sets = []
    for path in reversed(alone if len(alone) > 1 else []):
        companions = [mask for mask in masks if _is_decoders(mask) == _is_decoders(path)]
        sets.append({one: in_order[one] for one in (path, *companions)})
    other = _axes_by_input(part, choice, lengths, from_last=len(lengths) == 1)
    return [*sets, in_order, *([other] if other != in_order else [])]


def _is_mask(leaf: Tensor) -> bool:
    return not leaf.is_floating_point() and bool(((leaf == 0) | (leaf == 1)).all())


def _is_decoders(path: Path) -> bool:
    return any(str(key).startswith(("decoder", "labels")) for key in path)


def _axes_by_input(part: Batch, choice: Choice, lengths: Shape, *, from_last: bool) -> dict[Path, list[int]]:
    found = {path: _axes_of(leaf, lengths, choice.get(path), from_last) for path, leaf in leaves(part.inputs)}
    return {path: axes for path, axes in found.items() if axes}


def _axes_of(leaf: Any, lengths: Shape, samples: int | None, from_last: bool) -> list[int]:
    """Return axes of an input that have these lengths in this order, counted from its first or its last axis."""
    free = [axis for axis in range(leaf.ndim) if axis != samples] if isinstance(leaf, Tensor) else []
    step = -1 if from_last else 1
    axes: list[int] = []
    wanted = list(lengths)[::step]
    for axis in free[::step]:
        if wanted and leaf.shape[axis] == wanted[0]:
            axes.append(axis)
            wanted.pop(0)
    return axes[::step] if not wanted else []
