"""`profile`: every property of neural collapse at every layer of a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from typing_extensions import Unpack

from collapselab.errors import InputError, encodable
from collapselab.probes.evaluating import evaluating
from collapselab.probes.options import MeasuringOptions, complete_options, document_options
from collapselab.probes.own_pass import own_passes
from collapselab.probes.profile_run import ProfileRun
from collapselab.probes.results import Profile
from collapselab.probes.select import Layers, model_name, unwrapped
from collapselab.randomness import preserved_random_states


@document_options
def profile(
    model: nn.Module,
    loader: Iterable[Any],
    test_loader: Iterable[Any] | None = None,
    layers: Layers = None,
    *,
    name: str | None = None,
    **options: Unpack[MeasuringOptions],
) -> Profile:
    """Measure the inputs of every layer of a network, on train data and, if given, on test data.

    The first pass over a split reduces the features of all layers to class statistics, batch by batch. A second pass
    compares each sample with the class means of the train split. It also refines the stable ranks of sketched layers,
    and computes covariances again for which float32 products were too coarse. On test data, a second pass is needed only
    for these two. If the features of the train split fit in a quarter of the free memory (an eighth of that of a GPU),
    they are kept for its second pass, and the network runs once. The model is left as it was, even after an error:
    modes, hooks, buffers, random states.

    Under a process group (`torchrun`) each process reads its share of the data and all return the same numbers. A
    loader with a `DistributedSampler` yields a share already (samples that it repeats are not counted); any other loader
    must yield the same batches in every process, and each process takes its part of them.

    Args:
        model: any module; it is measured in evaluation mode, on the device of its parameters.
        loader: yields batches: (inputs, labels), (input, input, …, labels), mappings with `labels` whose other entries
            the model takes by keyword, or named tuples and objects that name their labels. Labels are whole numbers, one per
            sample or, as (n, tokens), one per token; those equal to -100 are padding.
        test_loader: the same for test data.
        name: name of the model in tables; default its class.
        layers: the layers to measure; see the options.
        options: `reduce`, `channel_axis`, `token_mask`, `scatter`, `weighting`, `epsilon`, `class_counts`, `metrics`,
            `spectra`, `sketch_size`, `seed`, `batch_axis`, `scores`, `classifier`, `shift_labels`, `ignore_index`,
            `split_batch`, `stats_device`, `progress`: see `collapselab.probes.options.ProfileOptions`.

    Returns:
        A `Profile`: `layers`, `first_collapsed_layer`, `to_frame()`, `to_dict()`; notebooks show it as a table.

    Raises:
        InputError: options that are not allowed, layers that match nothing or never run, loaders that yield nothing or
            what cannot be measured, labels outside the classes, NaN (with layer and batch), a model that raises (with
            batch and shape of the inputs), in one line that says what to do.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> labels = torch.arange(40) % 4
        >>> batches = [(torch.eye(4)[labels] + 0.1 * torch.randn(40, 4), labels)]
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
        >>> [layer.name for layer in profile(model, batches).layers]
        ['0', '2']
    """
    if not isinstance(model, nn.Module):
        swapped = ", and the loader after it" if isinstance(loader, nn.Module) else ""
        raise InputError(f"model is a {type(model).__name__}; give a torch.nn.Module first{swapped}")
    for argument, given in (("loader", loader), ("test_loader", [] if test_loader is None else test_loader)):
        is_scalar = getattr(given, "ndim", None) == 0  # an array without axes
        if isinstance(given, nn.Module) or not isinstance(given, Iterable) or is_scalar:
            raise InputError(
                f"{argument} is a {type(given).__name__}; give a DataLoader or a list of batches"
            )
    complete = complete_options({**options, "layers": layers})
    inner = unwrapped(model)
    with (
        preserved_random_states(),
        own_passes(loader, test_loader) as (train, test),
        evaluating(model),
    ):
        return ProfileRun(inner, train, complete).profile(test, encodable(name or model_name(inner)))
