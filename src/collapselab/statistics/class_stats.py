"""`ClassStats`: what is summed, how it is weighted, how it is merged and stored.

Letters: n samples, p features, c classes, k sketch columns.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.choices import Scatter, Weighting
from collapselab.statistics.moments import ClassMoments, refuse_unbounded
from collapselab.statistics.scatter import WithinScatter

WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)
SCATTERS: tuple[Scatter, ...] = get_args(Scatter)


class ClassStats:
    """Counts, means and within-class scatter of labelled features, accumulated in one pass.

    Args:
        num_classes: C; labels are 0 … C-1.
        dim: p, features per sample.
        scatter: what is kept of the within-class scatter.
            `full`: the pooled p x p matrix, for every metric.
            `trace`: one number per class, any p; no metric that needs a matrix.
            `sketch`: the pooled matrix times a p x `sketch_size` Gaussian, from which the leading
            spectrum follows (`within_sketch`), at any p.
            `per_class`: one p x p matrix per class (C p^2 numbers), both weightings always available.
        class_counts: samples of each class in the whole data set, shape (C,). Pooled scatter (`full`
            and `sketch`) is then summed with balanced weights (each row scaled by 1/sqrt(n_c)); without
            it, with sample weights. On balanced data one serves for both.
        product_dtype: dtype of the p x p products. Default: the features' own, float16 and bfloat16
            raised to float32. `torch.float64` makes them exact at about twice the cost.
        device: where sums are kept; default: where the first features are (the CPU if that device has no
            float64).
        sketch_size: k, columns of the sketch.
        seed: of the sketch's Gaussian; statistics with different seeds do not merge.

    Raises:
        ValueError: an argument out of range, or class_counts of a wrong shape.

    Example:
        >>> import torch
        >>> stats = ClassStats(num_classes=2, dim=3)
        >>> stats.update(torch.tensor([[0., 0, 0], [0, 0, 2], [5, 0, 0]]), torch.tensor([0, 0, 1]))
        >>> stats.class_means[0].tolist()
        [0.0, 0.0, 1.0]
        >>> stats.within_trace("balanced")
        0.5
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        scatter: Scatter = "full",
        *,
        class_counts: Int[Tensor, " c"] | Sequence[int] | None = None,
        product_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        sketch_size: int = 32,
        seed: int = 0,
    ) -> None:
        if num_classes < 1 or dim < 1:
            raise ValueError(f"num_classes and dim must be at least 1, got {num_classes} and {dim}")
        if scatter not in SCATTERS:
            raise ValueError(f"scatter must be one of {SCATTERS}, got {scatter!r}")
        if product_dtype not in (None, torch.float32, torch.float64):
            raise ValueError(f"product_dtype must be float32 or float64, got {product_dtype}")
        if sketch_size < 1:
            raise ValueError(f"sketch_size must be at least 1, got {sketch_size}")
        self.num_classes = num_classes
        self.dim = dim
        self.scatter: Scatter = scatter
        self.sketch_size = min(sketch_size, dim)
        self.seed = seed
        self.product_dtype = product_dtype
        self.class_counts: Tensor | None = None
        if class_counts is not None:
            declared = torch.as_tensor(class_counts, dtype=torch.int64).cpu().clone()
            if declared.shape != (num_classes,) or bool((declared < 0).any()):
                raise ValueError(
                    f"class_counts must be {num_classes} non-negative counts, got shape "
                    f"{tuple(declared.shape)}"
                )
            self.class_counts = declared
        self._device: torch.device | None = None if device is None else torch.device(device)
        self._moments: ClassMoments | None = None
        self._within: WithinScatter | None = None

    # ---------------------------------------------------------------- accumulation

    @torch.no_grad()
    def update(self, features: Float[Tensor, "n p"], labels: Int[Tensor, " n"]) -> None:
        """Add a batch. The tensors are read, never kept.

        Args:
            features: float16, bfloat16, float32 or float64, on any device.
            labels: whole numbers in [0, num_classes).

        Raises:
            ValueError: shapes or dtypes that do not fit, labels out of range, NaN or infinity (with the
                first row). Nothing of a refused batch is added.
        """
        self._check_batch(features, labels)
        if len(labels) == 0:
            return
        moments = self._allocated_for(features)
        features = features.to(self._device)
        labels = labels.to(device=self._device, dtype=torch.int64)
        step = moments.block_rows()
        # A single block is checked on its way. Of several, all are checked before the first is added; a
        # sum is the cheapest pass that shows NaN and infinity, and narrower dtypes hold nothing too large.
        if len(labels) > step:
            wide = features.dtype == torch.float64
            if wide or not bool(torch.isfinite(features.sum())):
                refuse_unbounded(features)
        for start in range(0, len(labels), step):
            block, block_labels = features[start : start + step], labels[start : start + step]
            here = torch.bincount(block_labels, minlength=self.num_classes)
            self._move_centres(moments.outgrown_centres(block, block_labels, here))
            within = self._within
            sketched = within is not None and within.kind == "sketch"
            moments.add(block, block_labels, here, within.add_deviations if within and sketched else None)
            if within is not None:
                within.push(block, block_labels)
            self._move_centres(moments.poor_centres())

    def _move_centres(self, moving: tuple[Tensor, Tensor] | None) -> None:
        if moving is not None and self._moments is not None:
            if self._within is not None:
                self._within.centres_moving(*moving)
            self._moments.move_centres(*moving)

    def _check_batch(self, features: Tensor, labels: Tensor) -> None:
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(
                f"features have shape {tuple(features.shape)}; this ClassStats takes (n, {self.dim})"
            )
        if not features.is_floating_point():
            raise ValueError(f"features have dtype {features.dtype}; convert them to floating point")
        if labels.shape != (features.shape[0],):
            raise ValueError(
                f"labels have shape {tuple(labels.shape)} for {features.shape[0]} rows of features"
            )
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"labels have dtype {labels.dtype}; use whole numbers")
        if len(labels):
            low, high = (int(value) for value in torch.aminmax(labels))
            if low < 0 or high >= self.num_classes:
                raise ValueError(
                    f"labels go from {low} to {high}; this ClassStats takes 0 to {self.num_classes - 1}"
                )

    def _allocated_for(self, features: Tensor) -> ClassMoments:
        if self._moments is not None:
            return self._moments
        device = self._device or features.device
        self._device = torch.device("cpu") if device.type == "mps" else device  # no float64 there
        if self.product_dtype is None:
            self.product_dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        self._moments = ClassMoments(
            self.num_classes,
            self.dim,
            # Float32 rows are centred in float32: a centre that float32 cannot hold would shift them.
            centre_dtype=torch.float64 if features.dtype == torch.float64 else torch.float32,
            device=self._device,
        )
        if self.scatter != "trace":
            self._within = WithinScatter(
                self.scatter,
                self._moments,
                row_scale=self._declared_row_scale(),
                dtype=self.product_dtype,
                sketch_size=self.sketch_size,
                seed=self.seed,
            )
        return self._moments

    def _declared_row_scale(self) -> Tensor | None:
        """1/sqrt(n_c) where pooled scatter is summed with balanced weights, else None.

        Rounded to the product's dtype at once, so that every correction uses the same weights.
        """
        if self.class_counts is None or self.scatter == "per_class" or self._is_balanced(self.class_counts):
            return None
        scale = self.class_counts.clamp_min(1).double().rsqrt()
        return scale.to(self.product_dtype).double().to(self._device)

    @staticmethod
    def _is_balanced(counts: Tensor) -> bool:
        return bool((counts == counts[0]).all())

    # ---------------------------------------------------------------- combination

    @classmethod
    @torch.no_grad()
    def merge(cls, parts: Sequence[ClassStats]) -> ClassStats:
        """The statistics of all parts' samples together.

        Exact up to rounding, in any grouping and order. The result owns its tensors and can be updated
        further; the parts are untouched.

        Raises:
            ValueError: no parts, or parts of different classes, dim, scatter, class_counts or sketch.
        """
        if not parts:
            raise ValueError("merge needs at least one ClassStats")
        first = parts[0]
        for part in parts[1:]:
            first._check_mergeable(part)
        filled = [part for part in parts if part._moments is not None]
        dtypes = {part.product_dtype for part in filled or parts}
        merged = cls(
            first.num_classes,
            first.dim,
            first.scatter,
            class_counts=first.class_counts,
            product_dtype=torch.float32 if torch.float32 in dtypes else dtypes.pop(),
            device=filled[0]._device if filled else first._device,
            sketch_size=first.sketch_size,
            seed=first.seed,
        )
        if filled:
            moments = merged._allocated_for(filled[0]._read().centres)
            moments.fill_from([part._read() for part in filled])
            for part in filled:
                if merged._within is not None and part._within is not None:
                    merged._within.add_shifted(part._within)
        return merged

    def _check_mergeable(self, other: ClassStats) -> None:
        for name in ("num_classes", "dim", "scatter", "sketch_size", "seed"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"cannot merge statistics with {name} {mine!r} and {theirs!r}")
        mine, theirs = self.class_counts, other.class_counts
        if (mine is None) != (theirs is None) or (
            mine is not None and theirs is not None and not torch.equal(mine, theirs)
        ):
            raise ValueError("cannot merge statistics with different class_counts")

    @torch.no_grad()
    def of_seen_classes(self) -> ClassStats:
        """The same sums over the classes that have samples, numbered 0, 1, … in their order.

        For labels out of a label space that the data do not fill, such as the vocabulary of a language model.
        Matrices are shared with this object: neither is to be updated afterwards.
        """
        seen = (self._read().counts > 0).nonzero()[:, 0]
        if len(seen) == self.num_classes:
            return self
        counts = None if self.class_counts is None else self.class_counts[seen.cpu()]
        part = copy.copy(self)
        part.num_classes, part.class_counts = len(seen), counts
        part._moments = self._read().of_classes(seen)
        if self._within is not None:
            part._within = self._within.of_classes(seen, part._moments)
        return part

    def without_scatter(self) -> ClassStats:
        """The same sums without the matrix: what `trace` keeps. Means are shared with this object."""
        part = copy.copy(self)
        part.scatter, part._within = "trace", None
        return part

    # ---------------------------------------------------------------- what was summed

    @property
    def has_samples(self) -> bool:
        """Whether any sample was seen."""
        return self._moments is not None and bool((self._moments.counts > 0).any())

    @property
    def counts(self) -> Int[Tensor, " c"]:
        """Samples seen of each class, int64."""
        return self._read().counts.clone()

    @property
    def num_samples(self) -> int:
        """Samples seen of all classes."""
        return int(self._read().counts.sum())

    @property
    def max_abs(self) -> float:
        """Largest absolute feature value seen; needs a scatter other than `trace`."""
        return self._scattered("full", "sketch", "per_class").max_abs

    @property
    def class_means(self) -> Float[Tensor, "c p"]:
        """Mean of each class, float64; NaN where a class has no samples."""
        moments = self._read()
        return (moments.sums / moments.counts.double()[:, None]).add_(moments.centres)

    @property
    def class_variances(self) -> Float[Tensor, " c"]:
        """v_c = mean squared distance of a class's samples from their mean, float64; NaN without samples."""
        moments = self._read()
        counts = moments.counts.double()
        shifts = torch.linalg.vector_norm(moments.sums, dim=1) / counts
        return (moments.squares / counts - shifts.square()).clamp_min(0.0)

    @property
    def unit_counts(self) -> Int[Tensor, " c"]:
        """Samples of each class whose norm is not zero, so that they have a direction."""
        moments = self._read()
        return moments.counts - moments.zero_norms

    @property
    def unit_means(self) -> Float[Tensor, "c p"]:
        """Mean of h / norm(h) over each class's samples of non-zero norm, float64; NaN without any."""
        moments = self._read()
        sums = (moments.centres * moments.unit_weights[:, None]).add_(moments.unit_sums)
        return sums.div_(self.unit_counts.double()[:, None])

    def class_weights(self, weighting: Weighting) -> Float[Tensor, " c"]:
        """pi_c: 1/C (`balanced`) or n_c/n (`sample`), float64.

        Raises:
            ValueError: a class has no samples, so that its mean does not exist; or unknown weighting.
        """
        counts = self._read().counts
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {weighting!r}")
        if bool((counts == 0).any()):
            empty = (counts == 0).nonzero()[:, 0].tolist()
            raise ValueError(f"{len(empty)} classes have no samples, the first is class {empty[0]}")
        if weighting == "balanced":
            return torch.full_like(counts, 1 / self.num_classes, dtype=torch.float64)
        return counts.double() / counts.sum()

    def global_mean(self, weighting: Weighting = "balanced") -> Float[Tensor, " p"]:
        """mu_G = sum_c pi_c mu_c, float64."""
        return self.class_weights(weighting) @ self.class_means

    def within_trace(self, weighting: Weighting = "balanced") -> float:
        """Tr Sigma_W, from squares summed in float64."""
        return float(self.class_weights(weighting) @ self.class_variances)

    def between_covariance(self, weighting: Weighting = "balanced") -> Float[Tensor, "p p"]:
        """Sigma_B = sum_c pi_c (mu_c - mu_G)(mu_c - mu_G)^T, float64."""
        weights = self.class_weights(weighting)
        centred = self.class_means - self.global_mean(weighting)
        return centred.T @ (weights[:, None] * centred)

    @torch.no_grad()
    def within_covariance(self, weighting: Weighting = "balanced") -> Float[Tensor, "p p"]:
        """Sigma_W = sum_c pi_c (1/n_c) sum_{i in c} (h_i - mu_c)(h_i - mu_c)^T, float64.

        Raises:
            ValueError: scatter is `trace` or `sketch`; or the pooled scatter was summed with the other
                weighting and the classes are unbalanced.
        """
        within = self._scattered("full", "per_class")
        if self.scatter == "per_class":
            return within.pooled_about_means(self.class_weights(weighting) / self._read().counts)
        return within.about_means().mul_(self._pooled_to(weighting))

    @torch.no_grad()
    def class_covariances(self) -> Float[Tensor, "c p p"]:
        """Scatter of each class about its own mean over n_c, float64; needs scatter `per_class`.

        Raises:
            ValueError: another scatter was kept.
        """
        within = self._scattered("per_class")
        return within.about_means().div_(self._read().counts.double()[:, None, None])

    @torch.no_grad()
    def within_sketch(
        self, weighting: Weighting = "balanced"
    ) -> tuple[Float[Tensor, "p k"], Float[Tensor, "p k"]]:
        """(Sigma_W @ Omega, Omega) for the seeded Gaussian Omega, float64.

        Raises:
            ValueError: scatter is not `sketch`; or the classes are unbalanced and the sketch was summed
                with the other weighting.
        """
        within = self._scattered("sketch")
        assert within.omega is not None
        return within.about_means().mul_(self._pooled_to(weighting)), within.omega.clone()

    def _scattered(self, *kinds: Scatter) -> WithinScatter:
        self._read()
        if self._within is None or self.scatter not in kinds:
            wanted = " or ".join(repr(kind) for kind in kinds)
            raise ValueError(f"scatter={self.scatter!r} does not keep this; use scatter={wanted}")
        return self._within

    def _pooled_to(self, weighting: Weighting) -> float:
        """The factor that turns the pooled scatter into a covariance of this weighting."""
        self.class_weights(weighting)
        counts = self._read().counts.cpu()
        if self.class_counts is not None and not torch.equal(counts, self.class_counts):
            wrong = int((counts != self.class_counts).nonzero()[0])
            raise ValueError(
                f"class {wrong} was declared with {int(self.class_counts[wrong])} samples in class_counts "
                f"but {int(counts[wrong])} were seen; declare the counts of the whole data set"
            )
        if self._is_balanced(counts):
            return 1.0 / int(counts.sum())
        if self.class_counts is None and weighting == "balanced":
            raise ValueError(
                "balanced covariance of unbalanced classes needs class_counts= when ClassStats is "
                "made, before the first update; or ask for weighting='sample'"
            )
        if self.class_counts is not None and weighting == "sample":
            raise ValueError(
                "this scatter was summed with balanced weights (class_counts was given) and the classes "
                "are unbalanced; leave class_counts out for weighting='sample'"
            )
        return 1.0 / (int(counts.sum()) if self.class_counts is None else self.num_classes)

    def _read(self) -> ClassMoments:
        if self._moments is None:
            raise ValueError("nothing was measured: this ClassStats has seen no samples")
        return self._moments

    # ---------------------------------------------------------------- storage

    def state_dict(self, *, with_scatter: bool = True) -> dict[str, Any]:
        """Everything needed to go on in another process: plain numbers, strings and owned tensors.

        Loads with `torch.load(..., weights_only=True)`.

        Args:
            with_scatter: False leaves the matrix out. What `from_state_dict` makes of that can be merged, and adds
                nothing to the scatter.
        """
        state: dict[str, Any] = {
            "num_classes": self.num_classes,
            "dim": self.dim,
            "scatter": self.scatter,
            "sketch_size": self.sketch_size,
            "seed": self.seed,
            "product_dtype": None if self.product_dtype is None else str(self.product_dtype),
            "class_counts": None if self.class_counts is None else self.class_counts.clone(),
            "moments": None if self._moments is None else self._moments.tensors(),
        }
        if self._within is not None and with_scatter:
            state["within"] = self._within.folded().clone()
            state["max_abs"] = self._within.max_abs
        return state

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> ClassStats:
        """The ClassStats that `state_dict` described; owns its tensors."""
        dtype = state["product_dtype"]
        stats = cls(
            state["num_classes"],
            state["dim"],
            state["scatter"],
            class_counts=state["class_counts"],
            product_dtype=None if dtype is None else getattr(torch, dtype.removeprefix("torch.")),
            sketch_size=state["sketch_size"],
            seed=state["seed"],
        )
        if state["moments"] is not None:
            stats._allocated_for(state["moments"]["centres"]).load(state["moments"])
            if stats._within is not None and "within" in state:
                stats._within.take(state["within"], state["max_abs"])
            elif "within" not in state:
                stats._within = None
        return stats

    def scatter_total(self) -> Tensor | None:
        """The sum that the scatter is read from, about the provisional centres; None where none is kept.

        With equal centres, as `merge` leaves them for the same parts, sums of several processes can be added.
        """
        return None if self._within is None else self._within.folded()

    def replace_scatter(self, total: Tensor, max_abs: float) -> None:
        """Put another sum in the place of `scatter_total`.

        Args:
            max_abs: the largest absolute feature value of all samples in it.
        """
        if self._within is not None:
            self._within.take(total, max_abs)

    def __repr__(self) -> str:
        seen = 0 if self._moments is None else self.num_samples
        return (
            f"ClassStats(num_classes={self.num_classes}, dim={self.dim}, scatter={self.scatter!r}, "
            f"num_samples={seen})"
        )
