"""Bytes that class statistics take, known before the first row.

Letters: p features, c classes, k sketch columns.

Statistics of rows in float32 (or narrower) take, in bytes:

    moments     28 c p      centres in float32, partial sums in float32 and totals in float64: two of each
    full        8 p^2       and r rows of 4 p + 8 that wait for a product, r = 4096 … 8192 and one block of rows
    per_class   8 c p^2     and the same rows
    sketch      8 k p, and as much again if there are no more than 2 k rows

Up to 64 features, sums are float64 alone: 20 c p. Rows in float64 have moments of 24 c p. Where products are float64,
waiting rows take 8 p + 8.

With deferred checks (on an accelerator) all sums are float64, and no rows wait for a product: a chunk of rows is gathered
instead, 32 MiB or 16,384 rows at most, and added at once, which takes four times as much for a moment.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from collapselab.statistics.class_stats import ClassStats
from collapselab.statistics.gathering import chunk_bytes
from collapselab.statistics.moments import NARROW, block_rows
from collapselab.statistics.pending import ROWS_PER_SKETCH_COLUMN, pending_rows

# Per class: counts, squares, unit weights, zero norms, squared norm of the centre and the count of the next judgement, 8 bytes each.
_PER_CLASS = 48
# Centred rows, rows in the order of their classes, and their products with weights.
_WORK_OF_CHUNK = 4


def moments_bytes(stats: ClassStats, features: torch.dtype = torch.float32, *, deferred: bool = False) -> int:
    """Return the bytes of counts, means and variances once rows were added.

    Args:
        stats: may be empty.
        features: dtype of the rows.
        deferred: whether checks of values are deferred.
    """
    wide = features == torch.float64
    per_feature = 24 if wide else 20 if stats.dim <= NARROW or deferred else 28
    return stats.num_classes * (per_feature * stats.dim + _PER_CLASS)


def scatter_bytes(
    stats: ClassStats,
    features: torch.dtype = torch.float32,
    *,
    deferred: bool = False,
    num_samples: int | None = None,
) -> int:
    """Return the bytes of the within-class scatter and of the rows that wait for a product; see `moments_bytes`.

    Args:
        num_samples: number of rows, where known: a sketch keeps rows beside it if there are few.
    """
    p = stats.dim
    if stats.scatter == "trace":
        return 0
    if stats.scatter == "sketch":
        most = ROWS_PER_SKETCH_COLUMN * stats.sketch_size
        keeps = num_samples is not None and num_samples <= most
        return 8 * stats.sketch_size * p + keeps * most * p * max(features.itemsize, 4)
    products = stats.product_dtype or torch.promote_types(features, torch.float32)
    row = p * torch.promote_types(products, features).itemsize + 8
    matrices = stats.num_classes if stats.scatter == "per_class" else 1
    if deferred:
        return 8 * matrices * p**2
    return 8 * matrices * p**2 + (pending_rows(p, products) + block_rows(p)) * row


def shared_bytes(
    all_stats: Sequence[ClassStats],
    features: torch.dtype | Sequence[torch.dtype] = torch.float32,
    *,
    deferred: bool = False,
    num_samples: int | None = None,
) -> int:
    """Return the bytes that statistics share: Gaussian matrices of sketches, and scratch for blocks of rows.

    Args:
        all_stats: those that exist at the same time, empty or not; their seeds are equal.
        features: dtype of the rows, of all or of each.
        deferred: whether checks of values are deferred: blocks are chunks then.
        num_samples: number of rows, where known.
    """
    dtypes = [features] * len(all_stats) if isinstance(features, torch.dtype) else features
    rows = list(zip(all_stats, dtypes, strict=True))
    sketches = {
        (stats.dim, stats.sketch_size, dtype == torch.float64)
        for stats, dtype in rows
        if stats.scatter == "sketch"
    }
    gaussians = sum((8 if wide else 8 + 4) * dim * columns for dim, columns, wide in sketches)
    if deferred:
        chunks = [chunk_bytes(stats.dim, dtype.itemsize, num_samples) for stats, dtype in rows]
        return gaussians + _WORK_OF_CHUNK * max(chunks, default=0)
    blocks = {8: 0, 4: 0}
    for stats, dtype in rows:
        size = 8 if dtype == torch.float64 or stats.dim <= NARROW else 4
        num_rows = min(block_rows(stats.dim), num_samples or block_rows(stats.dim))
        blocks[size] = max(blocks[size], num_rows * stats.dim)
    # float32 rows are centred beside their centres, float64 rows in the same memory.
    return gaussians + 8 * blocks[8] + 2 * 4 * blocks[4]
