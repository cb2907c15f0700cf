"""One profile being taken: which passes are made, over which classes, with which weighting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from collapselab.distributed import largest_over_ranks, raise_together
from collapselab.errors import InputError
from collapselab.metrics import Metric
from collapselab.probes.batches import Readable, SplitBatch, known_labels
from collapselab.probes.evaluate import Reader, SplitEvaluation, class_of_label
from collapselab.probes.passes import Feed, Network, ProgressCallback, SecondPass, first_pass
from collapselab.probes.plan import AutoScatter, Plan, choose_scatter, plan_probes
from collapselab.probes.reduce import Reduction
from collapselab.probes.results import LayerProfile, Profile, first_collapsed, joined_warnings
from collapselab.probes.weights import weight_matrix
from collapselab.statistics import ClassStats, Weighting

# Up to this width float64 products cost nothing that shows.
_EXACT_DIM = 256


@dataclass(frozen=True)
class Setting:
    """What a caller chose, checked; see `collapselab.probes.profile`."""

    reduction: Reduction
    scatter: AutoScatter
    weighting: Weighting
    metrics: dict[str, tuple[Metric, ...]]
    spectra: bool
    sketch_size: int
    seed: int
    split_batch: SplitBatch | None
    progress: ProgressCallback


class ProfileRun:
    """A profile of a model in evaluation mode.

    Args:
        model: to be measured.
        modules: to probe, by name.
        named: those of them that must run.
        setting: what the caller chose.
        loader: of the train split; its first batch is taken at once, to see what the layers read.
        class_counts: samples of each label in it, where the caller knows.

    Raises:
        InputError: the loader yields nothing; a layer cannot be probed.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: dict[str, nn.Module],
        named: set[str],
        setting: Setting,
        loader: Iterable[Any],
        class_counts: Tensor | Sequence[int] | None,
    ) -> None:
        self.setting = setting
        self.weighting: Weighting = setting.weighting
        self.warnings: list[tuple[str, str]] = []
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.classes = torch.empty(0, dtype=torch.int64)
        self._loader = self._readable(loader, "train")
        plan, first = _together(lambda: self._plan(model, modules, named))
        self.plan = plan
        self.warnings += [("layers", text) for text in plan.warnings]
        self.counts = _declared_counts(class_counts, self._known_labels(loader))
        self.num_labels = self._label_space(first)
        self.network = Network(
            model, modules, {point.name: point for point in plan.points}, setting.reduction, plan.num_outputs
        )
        # Statistics are summed over the whole label space, however few of it occur.
        self.scatter = choose_scatter(plan.points, self.num_labels, setting.scatter)
        self.readers = {
            point.name: Reader(_finite_weight(modules[point.module_name], point.name))
            for point in plan.points
        }

    def _readable(self, loader: Iterable[Any], where: str) -> Readable:
        return Readable(loader, self.device, self.setting.split_batch, where)

    def _known_labels(self, loader: Iterable[Any]) -> Tensor | None:
        # A caller's own `split_batch` can take other labels than those of the data set.
        return None if self.setting.split_batch else known_labels(loader)

    def _plan(self, model: nn.Module, modules: dict[str, nn.Module], named: set[str]) -> tuple[Plan, Tensor]:
        batch = self._loader.first()
        return plan_probes(model, modules, named, batch, self.setting.reduction), batch.classes

    def _label_space(self, first: Tensor) -> int:
        """K: labels are 0 … K-1."""
        if self.counts is not None:
            return len(self.counts)
        highest = int(first.max()) + 1 if len(first) else 1
        return largest_over_ranks(max(highest, self.plan.num_outputs or 0))

    def profile(self, test_loader: Iterable[Any] | None, name: str, epsilon: float) -> Profile:
        """Make the passes and put their results together.

        Raises:
            InputError: data that cannot be measured.
        """
        evaluated = {"train": self._measure_train()}
        if test_loader is not None:
            evaluated["test"] = self._measure_test(test_loader, evaluated["train"].class_means)
        layers = tuple(
            LayerProfile(
                name=point.name,
                depth=point.depth,
                shape=point.shape,
                dim=point.dim,
                scatter=self.scatter[point.source],
                splits={split: found.result(point, self.classes) for split, found in evaluated.items()},
                weight_singular_values=self.readers[point.name].singular_values(len(self.classes)),
            )
            for point in self.plan.points
        )
        places = [
            (f"{split} {layer.name}", text)
            for split in evaluated
            for layer in layers
            for text in layer.splits[split].warnings
        ]
        shares = [layer.train.get("normalized_within") for layer in layers]
        return Profile(
            model=name,
            layers=layers,
            first_collapsed_layer=first_collapsed([layer.name for layer in layers], shares, epsilon),
            weighting=self.weighting,
            epsilon=epsilon,
            num_samples={split: int(layers[0].splits[split].counts.sum()) for split in evaluated},
            classes=tuple(self.classes.tolist()),
            reduction=str(self.setting.reduction),
            warnings=tuple(joined_warnings(self.warnings + places)),
        )

    # ---------------------------------------------------------------- passes

    def _measure_train(self) -> SplitEvaluation:
        loader, progress = self._loader, self.setting.progress
        feed = Feed("train", loader.read, 0 if self.counts is None else int(self.counts.sum()))
        stats = self._empty_stats(self.counts)
        first_pass(self.network, feed, stats, progress)
        counts = self._counts_of("train", stats)
        self.classes = (counts > 0).nonzero()[:, 0]
        self._check_train(counts)
        evaluation = self._evaluation("train", stats, counts, declared=self.counts)
        means = evaluation.class_means if self._wants_centres("train") else {}
        second = evaluation.second_pass(means, self.num_labels)
        if second.is_needed and not loader.is_spent:
            second.run(self.network, feed, progress)
            evaluation.take(second)
        elif second.is_needed:
            self.warnings.append(
                ("train", "an iterator can be read once: no nearest class centres; give a loader")
            )
        return evaluation

    def _measure_test(self, raw_loader: Iterable[Any], train_means: dict[str, Tensor]) -> SplitEvaluation:
        """Nearest centres in the same pass as the statistics: the train means are known."""
        loader, progress = self._readable(raw_loader, "test"), self.setting.progress
        declared = _declared_counts(None, self._known_labels(raw_loader))
        feed = Feed("test", loader.read, 0 if declared is None else int(declared.sum()))
        if declared is not None and len(declared) <= self.num_labels:
            declared = nn.functional.pad(declared, (0, self.num_labels - len(declared)))
        else:
            declared = None  # where a label is outside, the pass says in which batch
        both = SecondPass(
            train_means if self._wants_centres("test") else {},
            class_of_label(self.classes, self.num_labels),
            fresh=self._empty_stats(declared),
        )
        both.run(self.network, feed, progress)
        counts = self._counts_of("test", both.fresh)
        self._check_test(counts)
        evaluation = self._evaluation("test", both.fresh, counts, declared=declared)
        evaluation.take_centres(both)
        still_open = evaluation.second_pass({}, self.num_labels)
        if still_open.is_needed and not loader.is_spent:
            still_open.run(self.network, feed, progress)
            evaluation.take(still_open)
        return evaluation

    def _empty_stats(self, declared: Tensor | None) -> dict[str, ClassStats]:
        return {source: self._empty(declared, source) for source in self.scatter}

    def _empty(self, declared: Tensor | None, source: str, *, exact: bool = False) -> ClassStats:
        p = self.network.points[source].dim
        n = 0 if declared is None else int(declared.sum())
        # With p >= n - 1 every eigenvalue beyond rank n - 1 is rounding: it must be float64 rounding.
        exact = exact or p <= _EXACT_DIM or p >= n - 1 > 0
        return ClassStats(
            self.num_labels,
            p,
            self.scatter[source],
            class_counts=declared if self.weighting == "balanced" else None,
            product_dtype=torch.float64 if exact and self.scatter[source] != "sketch" else None,
            sketch_size=self.setting.sketch_size,
            seed=self.setting.seed,
        )

    def _wants_centres(self, split: str) -> bool:
        return any("second pass" in metric.needs for metric in self.setting.metrics[split])

    def _evaluation(
        self, split: str, stats: dict[str, ClassStats], counts: Tensor, *, declared: Tensor | None
    ) -> SplitEvaluation:
        return SplitEvaluation(
            split=split,
            points=self.plan.points,
            readers=self.readers,
            stats={source: part.of_seen_classes() for source, part in stats.items()},
            classes=(counts > 0).nonzero()[:, 0],
            metrics=self.setting.metrics[split],
            weighting=self._possible_weighting(split, counts[counts > 0], known=declared is not None),
            spectra=self.setting.spectra,
            empty_stats=partial(self._empty, declared, exact=True),
        )

    # ---------------------------------------------------------------- what came

    def _counts_of(self, split: str, stats: dict[str, ClassStats]) -> Tensor:
        """Samples of each label."""
        any_source = next(iter(stats.values()))
        if not any_source.has_samples:
            raise InputError(f"{split}: the loader yields no labelled samples")
        counts = any_source.counts.cpu()
        single = int((counts == 1).sum())
        if single:
            self.warnings.append(
                (split, f"{single} classes have one sample and so no variance within the class")
            )
        return counts

    def _check_train(self, counts: Tensor) -> None:
        if self.counts is not None and not torch.equal(counts, self.counts):
            wrong = int((counts != self.counts).nonzero()[0])
            raise InputError(
                f"train: class {wrong} was declared with {int(self.counts[wrong])} samples but {int(counts[wrong])} "
                "came; give class_counts= of what the loader yields"
            )
        num_classes, outputs = len(self.classes), self.plan.num_outputs
        if num_classes < 2:
            raise InputError(
                f"train: all labels are {int(self.classes[0])}; neural collapse needs at least two classes"
            )
        if outputs is None:
            self.warnings.append(
                ("model", "returns no class scores of the labels' shape: ncc_agreement is undefined")
            )
        elif outputs > num_classes:
            self.warnings.append(
                (
                    "model",
                    f"{outputs} outputs for {num_classes} classes: self_duality is undefined, and a decision outside "
                    "the classes disagrees",
                )
            )

    def _check_test(self, counts: Tensor) -> None:
        unknown = counts.clone()
        unknown[self.classes] = 0
        if int(unknown.sum()):
            raise InputError(
                f"test: {int(unknown.sum())} samples have labels that no training sample has, the first is "
                f"{int(unknown.nonzero()[0])}; leave them out or add the class to train"
            )
        if int((counts > 0).sum()) < 2:
            raise InputError(
                f"test: all labels are {int(counts.argmax())}; neural collapse needs at least two classes"
            )
        missing = [label for label in self.classes.tolist() if counts[label] == 0]
        if missing:
            self.warnings.append(
                (
                    "test",
                    f"{len(missing)} of the training classes have no samples here, the first is {missing[0]}",
                )
            )

    def _possible_weighting(self, split: str, counts: Tensor, *, known: bool) -> Weighting:
        """Pooled scatter of unbalanced classes whose counts were not known is weighted by sample."""
        pooled = any(kind in ("full", "sketch") for kind in self.scatter.values())
        if self.weighting == "sample" or known or not pooled or bool((counts == counts[0]).all()):
            return self.weighting
        self.warnings.append(
            (
                split,
                "sample weighting is used: the classes are unbalanced and their counts were not known beforehand; "
                "give class_counts= for balanced weighting",
            )
        )
        if split == "train":
            self.weighting = "sample"
        return "sample"


def _finite_weight(module: nn.Module, name: str) -> Tensor | None:
    weight = weight_matrix(module)
    if weight is not None and not bool(torch.isfinite(weight.sum())):
        count = int((~torch.isfinite(weight)).sum())
        if count:
            raise InputError(f"the weight of {name} has {count} NaN or infinite values")
    return weight


def _declared_counts(class_counts: Tensor | Sequence[int] | None, labels: Tensor | None) -> Tensor | None:
    """Samples of each label 0 … K-1, given or counted.

    Raises:
        InputError: counts that are none.
    """
    if class_counts is not None:
        counts = torch.as_tensor(class_counts).cpu()
        if counts.ndim != 1 or counts.is_floating_point() or len(counts) < 2 or bool((counts < 0).any()):
            raise InputError(
                f"class_counts: give one whole number per label, not {counts.dtype} of shape {tuple(counts.shape)}"
            )
        return counts.long()
    if labels is None or len(labels) == 0 or int(labels.min()) < 0:
        return None
    return torch.bincount(labels.cpu())


_Result = TypeVar("_Result")


def _together(work: Callable[[], _Result]) -> _Result:
    """The result of `work()`, or in every process the error of any."""
    try:
        result = work()
    except Exception as error:
        raise_together(error)
        raise
    raise_together(None)
    return result
