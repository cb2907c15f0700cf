"""Every property of neural collapse at every layer of any network, in one pass over the data and a second for
nearest class centres.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from collapselab.checks import check_names
from collapselab.errors import InputError
from collapselab.metrics import Metric, select
from collapselab.probes.batches import SplitBatch
from collapselab.probes.capture import evaluating
from collapselab.probes.passes import ProgressCallback
from collapselab.probes.plan import AutoScatter
from collapselab.probes.profile_run import ProfileRun, Setting
from collapselab.probes.reduce import Reduction
from collapselab.probes.results import Profile
from collapselab.probes.select import Layers, choose_layers
from collapselab.randomness import random_states_kept
from collapselab.statistics import WEIGHTINGS, Weighting


def profile(
    model: nn.Module,
    loader: Iterable[Any],
    test_loader: Iterable[Any] | None = None,
    layers: Layers = None,
    *,
    reduce: str | Reduction = "flatten",
    scatter: AutoScatter = "auto",
    weighting: Weighting = "balanced",
    epsilon: float = 0.2,
    class_counts: Tensor | Sequence[int] | None = None,
    metrics: Iterable[str] | None = None,
    spectra: bool = False,
    sketch_size: int = 32,
    seed: int = 0,
    split_batch: SplitBatch | None = None,
    name: str | None = None,
    progress: ProgressCallback | None = None,
) -> Profile:
    """Measure what every layer of a network reads, on train and, where given, on test data.

    The first pass over a split reduces the features of all layers at once to class statistics; features are never
    kept. A second pass finds nearest class centres with the train class means frozen, and sharpens what the first
    left open: stable ranks of sketched layers, covariances for which float32 products were too coarse. The test split
    needs it only for the latter. The model is left as it was, whatever happens: modes, hooks, buffers, random states.

    Under a process group (`torchrun`) each process reads its share and all return the same numbers: the share of a
    `DistributedSampler`, without the samples it repeats; of any other loader every process must get the same batches,
    of which it takes its part.

    Args:
        model: any module; it is measured in evaluation mode, where its parameters are.
        loader: yields (inputs, labels), (input, input, …, labels), or mappings with `labels` whose other entries the
            model takes by keyword. Labels are whole numbers, one per sample or, as (n, tokens), one per token; those
            equal to -100 are padding.
        test_loader: the same for test data.
        layers: None for every linear and convolution layer; names and globs; or a predicate of name and module.
        reduce: `flatten`, `gap` (mean over positions), `mean` (over tokens), `token` or `token:i`.
        scatter: what is kept of the within-class scatter. `auto`: all of it up to 1024 features (4096 at the
            classifier) and 1 GiB in all, beyond that a sketch; or `full`, `sketch`, `trace` for every layer.
        weighting: of the covariances. `balanced` needs the class counts beforehand: from the data set of the loader
            if that tells, or from `class_counts`; else unbalanced data fall back to `sample`, with a warning.
        epsilon: a layer is collapsed while `normalized_within` is below this.
        class_counts: (K,) samples of each label 0 … K-1 in the whole train split.
        metrics: names; default all but `weak_test_variance`, which needs the test features in memory.
        spectra: also keep eigenvalues of the covariances that are kept whole.
        sketch_size: columns of a sketch.
        seed: of the sketches.
        split_batch: takes a batch as the loader yields it to (inputs, labels), where its form is none of the above.
        name: of the model in tables; default its class.
        progress: called with what is being done, samples done and samples in all (0 where unknown).

    Returns:
        A `Profile`: `layers`, `first_collapsed_layer`, `to_frame()`, `to_dict()`; notebooks show it as a table.

    Raises:
        InputError: layers that match nothing or never run, loaders that yield nothing or what cannot be measured,
            labels outside the classes, NaN (with layer and batch), in one line that says what to do.

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
    if weighting not in WEIGHTINGS:
        raise InputError(f"unknown weighting {weighting!r}; use balanced or sample")
    if not 0 < epsilon < 1:
        raise InputError(f"epsilon is {epsilon}; give a share of variance between 0 and 1")
    check_names([scatter], ("auto", "full", "trace", "sketch", "per_class"), "scatter")
    if sketch_size < 1:
        raise InputError(f"sketch_size is {sketch_size}; a sketch has at least one column")
    names = [metrics] if isinstance(metrics, str) else None if metrics is None else list(metrics)
    setting = Setting(
        reduction=Reduction.parse(reduce),
        scatter=scatter,
        weighting=weighting,
        metrics={split: _metrics(names, split) for split in ("train", "test")},
        spectra=spectra,
        sketch_size=sketch_size,
        seed=seed,
        split_batch=split_batch,
        progress=progress or (lambda *_: None),
    )
    modules, named = choose_layers(model, layers)
    with random_states_kept(), evaluating(model):
        return ProfileRun(model, modules, named, setting, loader, class_counts).profile(
            test_loader, name or type(model).__name__, epsilon
        )


def _metrics(names: list[str] | None, split: str) -> tuple[Metric, ...]:
    return tuple(metric for metric in select(names, split) if "k-means" not in metric.needs)
