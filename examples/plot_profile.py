"""Draw one figure of a profile together with that of the network at initialisation.

    python examples/plot_profile.py FINAL INITIAL FIGURE.png

FINAL and INITIAL are folders that `collapselab profile --out` wrote, or their profile.json. The panels follow figures 1
to 5 of Rangamani et al. 2023: share of variance within classes, equal angles, alignment, nearest class centres, singular
values, stable ranks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from collapselab import Profile
from collapselab.records.profile import read_profile

TRAIN, TEST, INITIAL = "#2563eb", "#ea580c", "#6b7280"


def series(profile: Profile, split: str, metric: str) -> list[float]:
    """One value per layer, NaN where it is undefined."""
    values = [(layer.train if split == "train" else layer.test).get(metric) for layer in profile.layers]
    return [np.nan if value is None else float(value) for value in values]


def curves(axes: Axes, final: Profile, initial: Profile, metric: str, title: str) -> None:
    """Draw one metric by depth: train and test at the end, train at initialisation."""
    axes.plot(series(final, "train", metric), "o-", color=TRAIN, label="train", markersize=4)
    axes.plot(series(final, "test", metric), "s-", color=TEST, label="test", markersize=4)
    axes.plot(series(initial, "train", metric), ":", color=INITIAL, label="train, initialisation")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("depth of the layer")
    axes.grid(alpha=0.3)


def singular_values(axes: Axes, profile: Profile) -> None:
    """Draw the largest singular values of each weight, relative to its largest."""
    for layer in profile.layers:
        values = np.array(layer.weight_singular_values[:20])
        colour = plt.get_cmap("viridis")(layer.depth / max(len(profile.layers) - 1, 1))
        axes.plot(range(1, len(values) + 1), values / values[0], ".-", color=colour, label=layer.name)
    axes.set_title("Singular values of each weight, relative to the largest", fontsize=10)
    axes.set_xlabel("rank")
    axes.set_ylim(0, 1.05)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6, ncol=2, loc="lower left")


def draw(final: Profile, initial: Profile, path: Path) -> None:
    """Draw all panels and write them to a file."""
    figure, panels = plt.subplots(2, 3, figsize=(12, 6.6), constrained_layout=True)
    within, angles, alignment, centres, spectra, ranks = panels.flat
    curves(within, final, initial, "normalized_within", "NC1: share of variance within classes")
    within.axhline(final.epsilon, color="black", linestyle="--", linewidth=1)
    within.annotate(f"ε = {final.epsilon:g}", (0, final.epsilon), textcoords="offset points", xytext=(0, 4))
    within.set_ylim(0, 1)
    within.legend(fontsize=8)
    curves(angles, final, initial, "equiangularity", "NC2: deviation of the cosines of class means")
    curves(alignment, final, initial, "alignment", "NC3: alignment of class means and weights")
    random = series(final, "train", "alignment_random")
    alignment.plot(random, "--", color="black", label="two random subspaces")
    alignment.set_ylim(0, 1)
    alignment.legend(fontsize=8)
    curves(centres, final, initial, "ncc_agreement", "NC4: nearest class mean agrees with the network")
    centres.set_ylim(0, 1.03)
    singular_values(spectra, final)
    curves(ranks, final, initial, "stable_rank", "Stable rank of features within classes")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("final", type=Path)
    parser.add_argument("initial", type=Path)
    parser.add_argument("figure", type=Path)
    options = parser.parse_args()
    final, initial = (read_profile(path).profile for path in (options.final, options.initial))
    draw(final, initial, options.figure)


if __name__ == "__main__":
    main()
