"""How figures for a paper look and are saved: readable at the width of a column, the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from collapselab.report.experiment_data import log_ticks, place_of_zero, placed
from collapselab.storage import replace_bytes

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN = 3.4  # inches; half the text of a two-column page
PAGE = 7.0
SOFT = "#5b6472"  # words beside the data; 4.5 : 1 on white and more
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ec",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 3,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # text stays text
    "text.usetex": False,
}


@contextmanager
def paper_style() -> Iterator[None]:
    """The style of everything that is made inside; nothing outside changes, pyplot plays no part.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("drawing figures needs matplotlib: pip install 'collapselab[papers]'") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        for name, value in _STYLE.items():
            matplotlib.rcParams[name] = value  # pyright: ignore[reportArgumentType] names of parameters are literals there
        yield


def paper_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that makes room for its labels by itself."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path_stem: str | Path) -> None:
    """Write STEM.pdf and STEM.png; the same figure gives the same bytes.

    Raises:
        OSError: the folder cannot be written to.
    """
    stem = Path(path_stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    # Without the date and the version of matplotlib, which say nothing about the figure.
    metadata = {"pdf": {"CreationDate": None, "Producer": None, "Creator": None}, "png": {"Software": None}}
    with paper_style():
        for ending in ("pdf", "png"):
            content = io.BytesIO()
            figure.savefig(content, format=ending, metadata=metadata[ending])
            replace_bytes(stem.with_name(f"{stem.name}.{ending}"), content.getvalue())


def plain_text(text: str) -> str:
    """Text for matplotlib, which takes dollars for the ends of formulas."""
    return text.replace("$", r"\$")


def log_axis(axes: Axes, which: Literal["x", "y"], values: Iterable[int | float], *, most: int) -> None:
    """A logarithmic axis with a few readable ticks; 0, where it occurs, has a tick of its own at the lower end."""
    values = list(values)
    ticks, texts = log_ticks(values, most)
    everything = [value for value in placed(values, place_of_zero(values)) if value == value]
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log"})
    axis.set_ticks(ticks, labels=texts)
    axis.set_ticks([], minor=True)
    low, high = min(everything), max(everything)
    air = max((high / low) ** 0.04, 1.02)
    axes.set(**{f"{which}lim": (low / air, high * air)})


def draw_band(
    axes: Axes,
    table: pd.DataFrame,
    x: str,
    *,
    colour: str,
    label: str,
    zero_x: float | None = None,
    zero_y: float | None = None,
    dash: str = "-",
    marker: str = "o",
) -> None:
    """A line through means, with the range over seeds behind it; both break where a value is undefined.

    Args:
        axes: where.
        table: as `over_seeds` gives it.
        x: its column along the horizontal axis.
        colour, label, dash, marker: of the line.
        zero_x, zero_y: where 0 stands on logarithmic axes.
    """
    places = placed(table[x], zero_x)
    low, mean, high = (placed(table[name], zero_y) for name in ("low", "mean", "high"))
    if (table["high"] > table["low"]).any():
        axes.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(places, mean, color=colour, linestyle=dash, marker=marker, markeredgewidth=0, label=label)


def legend_above(figure: Figure, axes: Sequence[Axes], *, columns: int, title: str = "") -> None:
    """One legend for all panels, above them; each label once, in the order of the panel that has most."""
    handles: dict[str, Artist] = {}
    entries = [one.get_legend_handles_labels() for one in axes]
    for artists, labels in sorted(entries, key=lambda entry: -len(entry[1])):
        for handle, label in zip(artists, labels, strict=True):
            handles.setdefault(label, handle)
    legend = figure.legend(
        list(handles.values()), list(handles), loc="outside upper center", ncols=columns, title=title or None
    )
    legend.get_title().set_color(SOFT)


def say_not_measured(axes: Axes) -> None:
    """In place of data, where there are none."""
    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, color=SOFT, ha="center")
