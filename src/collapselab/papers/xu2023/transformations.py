"""Linear maps of features, under which sec. 4.2 of Xu and Liu (2023) asks which metrics stay the same; and its example.

Letters: n samples, p features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from collapselab.papers.xu2023.common import class_means

# Powers of ten.
CONDITION_NUMBERS = (1, 2, 3, 4, 5, 6)
_SCALE, _SPREAD = 7.0, 1.0  # of all samples; half the range of the logarithm of scales of single samples


def transformed(
    features: Float[Tensor, "n p"], labels: Int[Tensor, " n"], seed: int
) -> Iterator[tuple[str, Float[Tensor, "n p"]]]:
    """Yield the name of each transformation and the float64 features after it; the first one changes nothing."""
    draw, dim = torch.Generator().manual_seed(seed), features.shape[1]
    yield "none", features
    yield "scaling", _SCALE * features
    yield "rotation", features @ _orthogonal(dim, draw).T
    yield "separate maps", features @ separate_maps(features, labels, draw).T
    for power in CONDITION_NUMBERS:
        yield f"condition number 1e{power}", features @ invertible(dim, 10.0**power, draw).T
    exponents = 2 * torch.rand(len(features), 1, generator=draw, dtype=torch.float64) - 1
    yield "scale of each sample", features * (_SPREAD * exponents).exp()


def invertible(dim: int, condition: float, draw: Generator) -> Float[Tensor, "p p"]:
    """Return a random matrix whose singular values are evenly spaced in logarithm, from 1 down to 1 / condition."""
    values = torch.logspace(0, -math.log10(condition), dim, dtype=torch.float64)
    return _orthogonal(dim, draw) * values @ _orthogonal(dim, draw)


def separate_maps(
    features: Float[Tensor, "n p"], labels: Int[Tensor, " n"], draw: Generator, condition: float = 10.0
) -> Float[Tensor, "p p"]:
    """Return an invertible map of the span of the centred class means, plus one of its orthogonal complement."""
    means = class_means(features, labels)
    _, values, basis = torch.linalg.svd(means - means.mean(dim=0), full_matrices=True)
    rank = int((values > values[0] * 1e-9).sum())
    parts = (
        part.T @ invertible(len(part), condition, draw) @ part
        for part in (basis[:rank], basis[rank:])
        if len(part)
    )
    return sum(parts, torch.zeros(len(basis), len(basis), dtype=torch.float64))


def _orthogonal(dim: int, draw: Generator) -> Float[Tensor, "p p"]:
    return torch.linalg.qr(torch.randn(dim, dim, generator=draw, dtype=torch.float64))[0]


def example() -> tuple[Float[Tensor, "8 2"], Int[Tensor, " 8"], Float[Tensor, "2 2"]]:
    """Return features, labels and a map as in observation 4.2: Sigma_B = diag(1, 0), Sigma_W = I, U = [[1, 0], [1, 1]].

    The numbers of the paper are missing in the text that this project has; these are its own. The two classes have means
    +-(1, 0), and samples at a distance of sqrt(2) from them along the axes. Before and after the map, vci is 1/2 and 1/2,
    fuzziness 1 and 5/4, squared distance 2 and 3/2, and cosine similarity 1/12 and 1/8.
    """
    around = math.sqrt(2) * torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    centre = torch.tensor([1, 0], dtype=torch.float64)
    labels = torch.arange(2).repeat_interleave(4)
    return torch.cat([around + centre, around - centre]), labels, torch.tensor([[1.0, 0], [1, 1]]).double()
