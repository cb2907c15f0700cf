"""What the fits of a linear probe cost, against scikit-learn's LogisticRegression, and how accurate both are.

    python benchmarks/linear_probe.py                                  # both shapes (about an hour)
    python benchmarks/linear_probe.py --shape 2000,512,10 --repeat 3   # about five minutes

97 penalties, 8 per decade over [1e-6, 1e6], on the same float64 features and on one thread. Kinds of features: `gaussian`,
well-conditioned; `relu`, a ReLU of Gaussian features with a 1/k spectrum, neither centred nor scaled; `standardized`, the
same ones standardised. scikit-learn uses L-BFGS with C = 1 / (n x penalty), at two tolerances: `loosest`, for each penalty
the loosest power of ten with which it is within 1e-6 of the optimum (which no user could know), and `single`, one for all
penalties with which all are. Only 13 of its penalties are timed, or 4 for a large shape, evenly spaced in the logarithm,
and the time is scaled to 97. The time of the candidate is that of all 97 fits, principal axes included. The two alternate.
Times are minima of CPU seconds, which depend less on other processes than wall time does.

Gaps are relative to the least objective known, in plain float64: that of this package's fit to 1e-12, or of scikit-learn
where that is lower. Results are appended to a JSON file.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: the names of its files would hide the standard library's
sys.path.append(__file__.rpartition("benchmarks")[0])

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from sklearn.linear_model import LogisticRegression

from benchmarks.record import append_record, shape
from collapselab.numerics import cpu_threads
from collapselab.transfer import LogisticPath

Array = npt.NDArray[np.float64]
SHAPES = ((2000, 512, 10), (10_000, 2048, 100))
# Ratios of time to be reached.
BARS = {"gaussian": 10.0, "relu": 20.0, "standardized": None}
PENALTIES = np.geomspace(1e6, 1e-6, 97).tolist()
LARGEST_GAP = 1e-6
MOST_ITERATIONS = 20_000


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def make(kind: str, n: int, p: int, c: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return features (n, p) and labels (n,) of balanced classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % c
    means = rng.normal(size=(c, p))
    if kind == "gaussian":
        return rng.normal(size=(n, p)) + 0.1 * means[labels], labels
    latent = (rng.normal(size=(n, p)) + 0.3 * means[labels]) / np.sqrt(np.arange(1, p + 1))
    rotation = np.linalg.qr(rng.normal(size=(p, p)))[0]
    features = np.maximum(0, latent @ rotation * np.sqrt(p) / 2)
    return (features - features.mean(0)) / features.std(0) if kind == "standardized" else features, labels


@dataclass
class Peer:
    """scikit-learn's fits to some penalties.

    Attributes:
        tolerances: the loosest by penalty.
        tightest: what the smallest penalty of all 97 needs.
        loosest, single: seconds by penalty, with `tolerances` and with `tightest`; minima over rounds.
    """

    tolerances: dict[float, float] = field(default_factory=dict)
    tightest: float = 0.0
    loosest: dict[float, float] = field(default_factory=dict)
    single: dict[float, float] = field(default_factory=dict)

    def total(self, times: dict[float, float]) -> float:
        return sum(times.values()) / len(times) * len(PENALTIES)


class Comparison:
    """Both on the same samples."""

    def __init__(self, kind: str, shape: tuple[int, int, int], penalties: list[float]) -> None:
        self.features, self.labels = make(kind, *shape)
        self.num_classes, self.penalties = shape[2], penalties
        self.least: dict[float, float] = {}
        self.peer = Peer()

    def objective(self, weight: Any, bias: Any, penalty: float) -> float:
        scores = self.features @ np.asarray(weight).T + np.asarray(bias)
        of_true = scores[np.arange(len(scores)), self.labels]
        return float(
            (special.logsumexp(scores, axis=1) - of_true).mean() + 0.5 * penalty * np.square(weight).sum()
        )

    def path(self) -> LogisticPath:
        return LogisticPath(torch.from_numpy(self.features), torch.from_numpy(self.labels), self.num_classes)

    def find_optima(self) -> None:
        for fit in self.path().fits([*self.penalties, PENALTIES[-1]], 1e-12):
            self.least[fit.penalty] = self.objective(fit.weight, fit.bias, fit.penalty)

    def gap(self, weight: Any, bias: Any, penalty: float) -> float:
        value = self.objective(weight, bias, penalty)
        self.least[penalty] = min(self.least[penalty], value)
        return value / self.least[penalty] - 1

    def time_candidate(self) -> tuple[float, float]:
        """Return the seconds of 97 fits, and the largest gap of those with a known optimum."""
        fits: list[Any] = []
        duration = seconds(lambda: fits.extend(self.path().fits(PENALTIES)))
        assert all(fit.gap <= LARGEST_GAP for fit in fits), "a gap is not certified"
        known = [fit for fit in fits if fit.penalty in self.least]
        return duration, max(self.gap(fit.weight, fit.bias, fit.penalty) for fit in known)

    def time_peer(self, penalty: float, tolerance: float) -> tuple[float, float]:
        """Return the seconds of one fit of scikit-learn, and its gap."""
        model = LogisticRegression(
            C=1 / (len(self.labels) * penalty), tol=tolerance, max_iter=MOST_ITERATIONS, solver="lbfgs"
        )
        duration = seconds(lambda: model.fit(self.features, self.labels))
        return duration, self.gap(model.coef_, model.intercept_, penalty)

    def find_tolerances(self) -> None:
        # Smaller penalties need tighter ones: each search begins with the tolerance of the last penalty.
        exponent = 2
        for penalty in (*self.penalties, PENALTIES[-1]):
            while True:
                duration, gap = self.time_peer(penalty, 10.0**-exponent)
                if gap <= LARGEST_GAP or exponent == 12:
                    break
                exponent += 1
            self.peer.tightest = 10.0**-exponent
            if penalty in self.penalties:
                self.peer.tolerances[penalty] = 10.0**-exponent
                self.peer.loosest[penalty] = duration

    def time_peers(self, *, single: bool) -> None:
        """Time each fit of scikit-learn once more, and keep the minima."""
        times = self.peer.single if single else self.peer.loosest
        for penalty, tolerance in self.peer.tolerances.items():
            duration, _ = self.time_peer(penalty, self.peer.tightest if single else tolerance)
            times[penalty] = min(duration, times.get(penalty, duration))


def compare(kind: str, shape: tuple[int, int, int], number: int, repeat: int) -> dict[str, Any]:
    # The middles of equal parts of the grid: their mean is about that of all.
    places = [int((part + 0.5) * len(PENALTIES) / number) for part in range(number)]
    both = Comparison(kind, shape, [PENALTIES[place] for place in places])
    both.find_optima()
    both.find_tolerances()
    timed = []
    for again in range(repeat):
        timed.append(both.time_candidate())
        if again:  # the search for tolerances was the first time
            both.time_peers(single=False)
        both.time_peers(single=True)
    duration, gap = min(part[0] for part in timed), max(part[1] for part in timed)
    loosest, single = both.peer.total(both.peer.loosest), both.peer.total(both.peer.single)
    bar = BARS[kind]
    n, p, c = shape
    print(
        f"n={n} p={p} C={c}  {kind:<12} {single / duration:6.1f}x as fast as scikit-learn (bar {bar or '-'}; with the loosest "
        f"tolerance for each penalty {loosest / duration:.1f}x); {duration:.2f} s against {single:.1f} s and {loosest:.1f} s, "
        f"scaled from {number} of 97 penalties; worst gap {gap:.1e}",
        flush=True,
    )
    return {
        "shape": list(shape), "features": kind, "seconds": duration, "single": single, "loosest": loosest,
        "ratio": single / duration, "ratio_loosest": loosest / duration, "bar": bar, "worst_gap": gap,
        "penalties_of_scikit_learn": number, "tolerance": both.peer.tightest,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--shape", type=shape, action="append", metavar="N,P,C")
    parser.add_argument("--kind", choices=list(BARS), action="append")
    parser.add_argument("--penalties", type=int, help="of scikit-learn; default 13, or 4 for a large shape")
    parser.add_argument("--append", type=Path, default=Path("benchmarks/linear_probe.json"), metavar="FILE")
    options = parser.parse_args()
    rows = []
    with cpu_threads(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's of line searches that end early; gaps are checked
        for size in options.shape or SHAPES:
            number = options.penalties or (13 if np.prod(size) < 1e8 else 4)
            rows += [compare(kind, size, number, options.repeat) for kind in options.kind or BARS]
    append_record(options.append, rows)


if __name__ == "__main__":
    main()
