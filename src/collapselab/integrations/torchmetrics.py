"""A `torchmetrics.Metric` of neural collapse, for loops that already use such metrics; it delegates to `ClassStats`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from collapselab.choices import Weighting
from collapselab.distributed import merged_over_ranks
from collapselab.errors import InputError
from collapselab.features import measure
from collapselab.integrations.destinations import MAIN_METRICS
from collapselab.metrics import BY_NAME, Metric, check_metrics
from collapselab.metrics.registry import MATRICES, Need
from collapselab.statistics import ClassStats, Scatter

try:
    import torchmetrics
except ImportError as error:
    raise ImportError("the metric needs torchmetrics: pip install 'collapselab[torchmetrics]'") from error

# What single samples answer, which class statistics do not contain.
_ROWS = frozenset[Need]({"second pass", "k-means"})


class _Uncopied:
    """Holds a module outside of the metric's own modules, so that it is neither copied nor saved with it."""

    def __init__(self, module: nn.Module | None) -> None:
        self.module = module

    def __deepcopy__(self, _memo: Any) -> _Uncopied:
        return self


class NeuralCollapse(torchmetrics.Metric):
    """Metrics of neural collapse of labelled features, accumulated batch by batch.

    Several processes (DDP) compute the metrics of all their samples together, in any distribution of the samples. State is
    not saved in checkpoints, as usual for metrics.

    Args:
        num_classes: C; labels are 0 … C-1. Classes without samples are left out.
        dim: p, features per sample.
        metrics: names; default the main metrics that class statistics give. If it is one name, `compute` returns its value
            instead of a dictionary.
        classifier: linear layer with C rows that reads the features, for `self_duality`, `alignment` and other metrics that
            compare means with weights. Its current weight is read by `compute`.
        weighting: `balanced` or `sample`. Metrics that need a covariance of unbalanced classes are balanced only with
            `class_counts`, otherwise weighted by sample.
        class_counts: (C,) samples of each class in the whole data set, of all processes together.
        options: of `torchmetrics.Metric`, except `process_group` and `dist_sync_fn`: all processes take part.

    Attributes:
        stats: statistics of this process.
        problems: everything unusual that the last `compute` found.

    Raises:
        InputError: an unknown metric, or one that needs single samples, such as `ncc_accuracy`.

    Example:
        >>> import torch
        >>> metric = NeuralCollapse(num_classes=2, dim=3, metrics="normalized_within")
        >>> metric.update(torch.tensor([[1., 0, 0], [1, 0, 2], [0, 5, 1]]), torch.tensor([0, 0, 1]))
        >>> round(float(metric.compute()), 4)
        0.0714
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    def __init__(
        self,
        num_classes: int,
        dim: int,
        metrics: str | Iterable[str] | None = None,
        *,
        classifier: nn.Module | None = None,
        weighting: Weighting = "balanced",
        class_counts: Tensor | Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        refused = sorted(options.keys() & {"process_group", "dist_sync_fn"})
        if refused:
            raise InputError(f"{refused[0]}= is not supported: all processes take part; leave it out")
        super().__init__(**options)
        self._one_name = isinstance(metrics, str)
        names = [metrics] if isinstance(metrics, str) else list(metrics or _defaults(classifier))
        check_metrics(names)
        self._chosen = [BY_NAME[name] for name in names]
        for metric in self._chosen:
            if metric.needs & _ROWS:
                raise InputError(
                    f"metrics: {metric.name} needs the features of every sample, which are not stored; use measure or Monitor"
                )
        self._classifier = _Uncopied(classifier)
        self._weighting: Weighting = weighting
        self._arguments = (num_classes, dim, _scatter(self._chosen))
        self._class_counts = class_counts
        self.stats, self.problems = self._empty(), ()

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            features: (n, p).
            labels: (n,) whole numbers in [0, C).
        """
        self.stats.update(features, labels)

    def compute(self) -> Tensor | dict[str, Tensor]:
        """Return the value of each metric by name, or of the only one; NaN where it is undefined."""
        if not self.stats.has_samples or int((self.stats.counts > 0).sum()) < 2:
            warnings.warn("metrics of neural collapse need samples of two classes", stacklevel=2)
            values = {}
        else:
            layer = self._classifier.module
            is_of_test = any("train" not in metric.splits for metric in self._chosen)
            result = measure(
                self.stats,
                test=self.stats if is_of_test else None,
                weight=None if layer is None else layer.weight,
                metrics=[metric.name for metric in self._chosen],
                weighting=self._weighting,
            )
            self.problems, values = result.warnings, result.test | result.train
        found = {metric.name: self._tensor(values.get(metric.name)) for metric in self._chosen}
        return next(iter(found.values())) if self._one_name else found

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self.stats, self.problems = self._empty(), ()

    @property
    def metric_state(self) -> dict[str, Any]:
        """Statistics of this process."""
        return {"stats": self.stats}

    def _empty(self) -> ClassStats:
        return ClassStats(*self._arguments, class_counts=self._class_counts)

    def _tensor(self, value: float | None) -> Tensor:
        return torch.tensor(math.nan if value is None else float(value), device=self.device)

    # torchmetrics saves and restores states around synchronisation and `forward` by these three methods.

    def _copy_state_dict(self) -> dict[str, Any]:
        return {**super()._copy_state_dict(), "stats": self.stats}

    def _sync_dist(self, *_: Any, **__: Any) -> None:
        self.stats = merged_over_ranks(self.stats)

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        self.stats = ClassStats.merge([incoming_state["stats"], self.stats])


def _defaults(classifier: nn.Module | None) -> list[str]:
    """Return the main metrics that class statistics give."""
    missing = _ROWS if classifier is not None else _ROWS | {"weight", "classifier"}
    return [name for name in MAIN_METRICS if not BY_NAME[name].needs & missing]


def _scatter(metrics: Iterable[Metric]) -> Scatter:
    """Return the least scatter that the metrics need."""
    needs = frozenset[Need]().union(*(metric.needs for metric in metrics))
    if "class covariances" in needs:
        return "per_class"
    return "full" if needs & MATRICES else "trace"
