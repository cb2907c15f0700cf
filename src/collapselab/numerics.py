"""Products shared by statistics and metrics: their precision, the blocks they work in, their threads.

Letters: n samples, p features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from threadpoolctl import ThreadpoolController, threadpool_limits
from torch import Tensor

EPS64 = torch.finfo(torch.float64).eps
EPS32 = torch.finfo(torch.float32).eps

# Below this width one product is faster than a triangle of narrower ones: an accelerator needs wider ones to be busy.
_MIN_PANEL_WIDTH, _MIN_PANEL_WIDTH_OF_ACCELERATORS = 128, 512
_MAX_PANELS = 8


_CPU_BLOCK_ELEMENTS, _ACCELERATOR_BLOCK_ELEMENTS = 2**20, 2**23
_CPU_SLICE_ELEMENTS = 2**16

_MAX_SIZE_OF_ONE_THREAD = 1024

# Squares and products of entries of this size are far from the limits of float64.
_MIDDLE_SIZES = (1e-100, 1e100)


def middle_factor(*arrays: Tensor) -> float:
    """Return the power of two that brings the largest entry of arrays near 1; 1 for arrays of ordinary size.

    Multiplied with it, squares neither overflow nor vanish, and all ratios stay exact.
    """
    largest = max(torch.stack([array.abs().max().double() for array in arrays]).tolist())
    if largest == 0 or _MIDDLE_SIZES[0] < largest < _MIDDLE_SIZES[1]:
        return 1.0
    return 2.0 ** min(-math.frexp(largest)[1], 1000)


@contextmanager
def full_precision_products(device: torch.device) -> Iterator[None]:
    """Run float32 matrix products in float32, regardless of process-wide switches; restore these on exit.

    "Fast" float32 products use TF32 (CUDA, 10 bits of mantissa) or bfloat16 (oneDNN, 7 bits), and autocast replaces
    the dtype of the product altogether. None of them is accurate enough for a scatter matrix.
    """
    backend = {"cuda": torch.backends.cuda, "cpu": torch.backends.mkldnn}.get(device.type)
    matmul = getattr(backend, "matmul", None)
    has_switch = hasattr(matmul, "fp32_precision")
    legacy = None
    before = None
    if has_switch:
        assert matmul is not None
        before = matmul.fp32_precision
        matmul.fp32_precision = "ieee"
    else:  # torch < 2.9 has only the process-wide switch
        legacy = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
    autocast = (
        torch.autocast(device.type, enabled=False)
        if torch.amp.is_autocast_available(device.type)
        else nullcontext()
    )
    try:
        with autocast:
            yield
    finally:
        if has_switch:
            assert matmul is not None
            matmul.fp32_precision = before
        else:
            assert legacy is not None
            torch.set_float32_matmul_precision(legacy)


def block_elements(device: torch.device) -> int:
    """Return how many elements are best processed at a time: the cache of a CPU holds them, or a kernel is worth its launch."""
    return _CPU_BLOCK_ELEMENTS if device.type == "cpu" else _ACCELERATOR_BLOCK_ELEMENTS


def slice_elements(device: torch.device) -> int:
    """Return how many elements of a temporary stay in the cache of a CPU core; on an accelerator as `block_elements`."""
    return _CPU_SLICE_ELEMENTS if device.type == "cpu" else _ACCELERATOR_BLOCK_ELEMENTS


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Use this many CPU threads in torch, BLAS and OpenMP, on which the last digits depend; None for as many as before.

    The numbers from before are restored on the way out.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        with threadpool_limits(number):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def thread_pools(module: str) -> Any:
    """Return the thread pools that are loaded with a module; finding them takes as long as k-means of few samples."""
    import_module(module)
    return ThreadpoolController()


def one_blas_thread_of_scipy(size: int) -> AbstractContextManager[object]:
    """Return a context in which NumPy and SciPy multiply matrices of this size in one thread, unless they are large.

    After a call, threads of their BLAS keep cores busy for a while, and products of torch, of 2 ms, take up to 70 ms.
    """
    if size > _MAX_SIZE_OF_ONE_THREAD:
        return nullcontext()
    return thread_pools("scipy.linalg").select(internal_api="openblas").limit(limits=1)


def add_gram_(total: Float[Tensor, "p p"], rows: Float[Tensor, "n p"], scale: float = 1.0) -> None:
    """Add `scale * rows.T @ rows` to the upper block triangle of `total`, in place.

    Only panels on and above the diagonal are multiplied: close to half the work of the full product.
    Entries below the diagonal panels are not updated; read the result through `symmetrized`.
    """
    dim = rows.shape[1]
    narrowest = _MIN_PANEL_WIDTH if rows.device.type == "cpu" else _MIN_PANEL_WIDTH_OF_ACCELERATORS
    num_panels = max(1, min(_MAX_PANELS, dim // narrowest))
    width = -(-dim // num_panels)
    for start in range(0, dim, width):
        stop = min(start + width, dim)
        panel = rows[:, start:stop].T @ rows[:, start:]
        add_converted_(total[start:stop, start:], panel, scale)


def add_converted_(total: Float[Tensor, "a b"], addend: Float[Tensor, "a b"], scale: float = 1.0) -> None:
    """Add `scale * addend` to `total` in place, where `addend` has a narrower dtype.

    On a CPU it is added in slices because the converted addend is a temporary: memory of a small one is reused, that of
    a large one is requested from the operating system at every call.
    """
    if addend.dtype == total.dtype or total.device.type != "cpu":
        total.add_(addend, alpha=scale)
        return
    step = max(1, 2**16 // addend.shape[1])
    for start in range(0, len(addend), step):
        total[start : start + step].add_(addend[start : start + step], alpha=scale)


def symmetrized(upper: Float[Tensor, "p p"]) -> Float[Tensor, "p p"]:
    """Return the symmetric matrix with the upper triangle of `upper`, as a new tensor."""
    full = torch.triu(upper)
    return full.add_(torch.triu(upper, diagonal=1).T)


def power_of_two_near(value: float) -> float:
    """Return the largest power of two that is at most `value` (> 0); scaling by it is exact."""
    return 2.0 ** int(torch.frexp(torch.tensor(value, dtype=torch.float64)).exponent.item() - 1)


def gram_norm(matrix: Float[Tensor, "c p"]) -> Float[Tensor, ""]:
    """Return the Frobenius norm of M M^T, which is also that of M^T M, from the smaller of the two."""
    return torch.linalg.matrix_norm(_smaller_gram(matrix))


def _smaller_gram(matrix: Float[Tensor, "c p"]) -> Tensor:
    c, p = matrix.shape
    return matrix @ matrix.T if c <= p else matrix.T @ matrix
