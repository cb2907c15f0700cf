"""`collapselab metrics`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collapselab.metrics import Metric

_WIDTH = 100


def metrics(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Metrics to explain; default: list all of them."),
    ] = None,
) -> None:
    """Print the catalogue of metrics.

    Without a name: every metric, its formula and its value at full collapse. With names: their source, range and what
    one must know to use them, too.

    \b
    Examples:
      collapselab metrics
      collapselab metrics vci vci_adjusted
    """  # noqa: D301 (Typer wants the backspace itself before lines it must not join)
    from collapselab.cli.terminal import print_text
    from collapselab.metrics.names import check_metrics

    check_metrics(names or [], "collapselab metrics lists all.")
    from collapselab.metrics import BY_NAME, METRICS
    from collapselab.metrics.catalogue import NOTATION

    lines = _explained([BY_NAME[name] for name in names]) if names else _listed(METRICS)
    print_text("\n".join([*lines, NOTATION]) + "\n")


def _listed(metrics: Sequence[Metric]) -> Iterator[str]:
    room = max(len(metric.name) for metric in metrics)
    for family, members in groupby(metrics, key=lambda metric: metric.family):
        yield family
        for metric in members:
            full = "" if metric.at_collapse is None else f"; {metric.at_collapse:g} at full collapse"
            head = f"  {metric.name:<{room}}  "
            yield textwrap.fill(
                f"{metric.formula}{full}", _WIDTH, initial_indent=head, subsequent_indent=" " * len(head)
            )
        yield ""


def _explained(metrics: Sequence[Metric]) -> Iterator[str]:
    from collapselab.metrics.catalogue import facts

    for metric in metrics:
        yield f"{metric.name} ({metric.family})"
        for text in (metric.formula, *facts(metric)):
            yield textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="    ")
        yield ""
