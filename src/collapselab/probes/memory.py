"""Memory of a profile, known before its first pass: what its statistics will take, and whether there is room.

Letters: p features, c classes, k sketch columns.

Bytes of one source of features beyond its `ClassStats` (see `collapselab.statistics.memory`):

    class means           8 c p         for the second pass, and of the train split while the test split is read
    nearest class mean    12 c p        the means about their mean, in float64 and in float32
    sharper spectrum      16 k p        the directions found in a sketch, and the products with them
    results               8 c p         per split, on the host

While metrics are evaluated, one source after the other takes more for a moment: 64 c p, and of matrices 44 p^2 (`full`),
8 (4 c + 1) p^2 (`per_class`), 72 k p (`sketch`) or 144 k p (after a second pass). Not counted are the network, its
activations, the features of one batch, the work space of LAPACK, and a repetition in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from collapselab.errors import InputError
from collapselab.passes import SplitPlan
from collapselab.probes.free_memory import free_memory
from collapselab.probes.label_space import LabelSpace
from collapselab.probes.plan import ProbePoint
from collapselab.statistics import ClassStats, chunk_bytes, is_deferred
from collapselab.statistics.memory import moments_bytes, scatter_bytes, shared_bytes

# Of the free memory.
_WARNED_SHARE = 0.5
_GIB = 2**30
_MOST_NAMED, _MOST_CHARACTERS = 3, 40


@dataclass(frozen=True)
class SourceBytes:
    """Bytes of one source of features.

    Attributes:
        moments, scatter: of its statistics.
        gathered: rows that wait, in each pass, where checks are deferred.
        means: float64 class means.
        rule: of nearest class means, beside the means; 0 if they are not looked for.
        directions: that a second pass multiplies with, and the products; 0 without one.
        working: while metrics are evaluated after the first pass.
        refining: while they are evaluated after the second pass.
        is_sketch: whether the scatter is needed until then.
    """

    moments: int
    scatter: int
    gathered: int
    means: int
    rule: int
    directions: int
    working: int
    refining: int
    is_sketch: bool

    @classmethod
    def of(
        cls,
        stats: ClassStats,
        dtype: torch.dtype,
        *,
        nearest: bool,
        refined: bool,
        gathered: int,
        num_samples: int | None,
    ) -> SourceBytes:
        """Return the bytes of a source.

        Args:
            stats: empty, as they will be created.
            dtype: of the rows.
            nearest: whether nearest class means are looked for.
            refined: whether spectra of sketches are sharpened.
            gathered: bytes of rows that wait where checks are deferred; 0 where they are not.
            num_samples: number of rows, where known.
        """
        deferred = gathered > 0
        c, p, kind = stats.num_classes, stats.dim, stats.scatter
        means, sketch = 8 * c * p, 8 * stats.sketch_size * p if kind == "sketch" else 0
        matrices = {"full": 44 * p**2, "per_class": 8 * (4 * c + 1) * p**2, "sketch": 9 * sketch, "trace": 0}
        return cls(
            moments=moments_bytes(stats, dtype, deferred=deferred),
            scatter=scatter_bytes(stats, dtype, deferred=deferred, num_samples=num_samples),
            gathered=gathered,
            means=means,
            rule=12 * c * p if nearest else 0,
            directions=2 * sketch if refined else 0,
            working=8 * means + matrices[kind],
            refining=8 * means + 18 * sketch if refined else 0,
            is_sketch=kind == "sketch",
        )

    @property
    def first(self) -> int:
        """Bytes that are held during the first pass."""
        return self.moments + self.scatter + self.gathered

    @property
    def second(self) -> int:
        """Bytes that are held during the second pass over the train split."""
        sketch = self.scatter if self.is_sketch else 0
        means = self.means if self.rule or self.directions else 0
        return self.moments + sketch + self.gathered + means + self.rule + self.directions

    @property
    def kept(self) -> int:
        """Bytes of the train split that are held while the test split is measured."""
        return self.moments + self.means


def peak_bytes(sources: list[SourceBytes], shared: int, *, with_test: bool) -> int:
    """Return the most bytes that statistics take at once.

    Args:
        sources: in the order in which they are evaluated.
        shared: by all sources together.
        with_test: whether a test split is measured after the train split.
    """
    train = max(sum(one.first for one in sources), _while_evaluated(sources), _while_refined(sources, 0))
    if not with_test:
        return shared + train
    rules = sum(one.rule for one in sources)  # in the first pass
    test = max(
        sum(one.first for one in sources) + rules, _while_evaluated(sources), _while_refined(sources, rules)
    )
    return shared + max(train, sum(one.kept for one in sources) + test)


def _while_evaluated(sources: list[SourceBytes]) -> int:
    """Return the most bytes while one source after the other is evaluated and its matrix released."""
    held, most = sum(one.first - one.gathered for one in sources), 0
    for one in sources:
        most = max(most, held + one.working)
        held += one.directions // 2 if one.is_sketch else -one.scatter
    return most


def _while_refined(sources: list[SourceBytes], without: int) -> int:
    return sum(one.second for one in sources) - without + max((one.refining for one in sources), default=0)


def check_memory(
    plan: SplitPlan, labels: LabelSpace, most_classes: int, device: torch.device, *, with_test: bool
) -> str | None:
    """Return a warning if the statistics of a profile take more than half of the free memory.

    Args:
        plan: of the train split, at probe points of a network.
        labels: those that are known, or how many are expected.
        most_classes: that the network tells apart. The first batch may lack classes that come later: where only all of
            them would take too much, this is a warning.
        device: where statistics are stored.
        with_test: whether a test split is measured too.

    Raises:
        InputError: they take more than there is: how much, the largest layers, and what helps.
    """
    expected = max(labels.room or 0, len(labels))
    num_samples = None if labels.counts is None else int(labels.counts.sum())

    def check(num_classes: int) -> str | None:
        def create(source: str) -> ClassStats:
            return plan.create_stats(source, num_classes, labels.counts, growing=labels.room is not None)

        return _check(plan, create, device, with_test=with_test, num_samples=num_samples)

    text = check(expected)
    if text is not None or most_classes <= expected:
        return text
    try:
        text = check(most_classes)
    except InputError as error:
        text = str(error)
    return text and f"if all {most_classes:,} classes occur, {text}"


def _check(
    plan: SplitPlan,
    create: Callable[[str], ClassStats],
    device: torch.device,
    *,
    with_test: bool,
    num_samples: int | None,
) -> str | None:
    deferred = is_deferred("auto", device)
    by_source = sources_of(plan, create, deferred=deferred, num_samples=num_samples)
    all_stats = [create(source) for source in by_source]
    dtypes = dtypes_of(plan)
    shared = shared_bytes(
        all_stats, [dtypes[source] for source in by_source], deferred=deferred, num_samples=num_samples
    )
    total = peak_bytes(list(by_source.values()), shared, with_test=with_test)
    on_host = sum(by_source[point.source].means for point in plan.points) * (1 + with_test)
    host = torch.device("cpu")
    needs = {device: total + on_host} if device == host else {device: total, host: on_host}
    for place, needed in needs.items():
        room = free_memory(place)
        if room is None or needed <= _WARNED_SHARE * room:
            continue
        text = (
            f"class statistics take up to {needed / _GIB:.3g} GiB, and {place} has {room / _GIB:.3g} GiB free"
        )
        if needed > room:
            raise InputError(f"{text}; largest: {_largest(by_source)}; {_remedies(plan, device, host)}")
        return text
    return None


def sources_of(
    plan: SplitPlan, create: Callable[[str], ClassStats], *, deferred: bool, num_samples: int | None
) -> dict[str, SourceBytes]:
    """Return the bytes of every source of features, in the order in which they are evaluated."""
    dtypes = dtypes_of(plan)
    nearest = "second pass" in plan.needs
    refined = any(metric.name.startswith("stable_rank") for metric in plan.metrics)

    def bytes_of(source: str) -> SourceBytes:
        stats, dtype = create(source), dtypes[source]
        gathered = chunk_bytes(stats.dim, dtype.itemsize, num_samples) if deferred else 0
        return SourceBytes.of(
            stats, dtype, nearest=nearest, refined=refined, gathered=gathered, num_samples=num_samples
        )

    return {source: bytes_of(source) for source in plan.scatter}


def dtypes_of(plan: SplitPlan) -> dict[str, torch.dtype]:
    """Return the dtype of the rows of every source of features."""
    return {point.source: point.dtype for point in plan.points if isinstance(point, ProbePoint)}


def _largest(by_source: dict[str, SourceBytes]) -> str:
    sizes = {source: max(one.first, one.second) for source, one in by_source.items()}
    names = sorted(sizes, key=sizes.__getitem__, reverse=True)[:_MOST_NAMED]
    return ", ".join(f"{name[-_MOST_CHARACTERS:]} ({sizes[name] / _GIB:.3g} GiB)" for name in names)


def _remedies(plan: SplitPlan, device: torch.device, host: torch.device) -> str:
    flat = any(
        isinstance(point, ProbePoint) and point.channel_axis is None and len(point.shape) > 1
        for point in plan.points
    )
    remedies = ['reduce="gap"'] * flat + ["fewer layers with layers="]
    remedies += ['scatter="trace"'] * (set(plan.scatter.values()) != {"trace"})
    if device != host:
        room = free_memory(host)
        known = "" if room is None else f" ({room / _GIB:.3g} GiB free)"
        remedies.append(f'stats_device="cpu"{known}')
    return f"use {', '.join(remedies)}"
