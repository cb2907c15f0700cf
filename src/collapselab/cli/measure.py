"""`collapselab measure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collapselab.choices import Weighting
from collapselab.cli.options import Format, MetricsOption, OutputOption, metric_names
from collapselab.cli.paths import check_exists
from collapselab.cli.progress import ProgressBars
from collapselab.errors import InputError


def measure(
    train: Annotated[
        Path,
        typer.Argument(
            metavar="TRAIN",
            help="Training features: a .npz or .safetensors file, or a folder of such files (shards).",
        ),
    ],
    test: Annotated[
        Path | None,
        typer.Option(
            "--test",
            metavar="TEST",
            help="Test features, in the same formats. Three metrics need all of them in memory: weak_test_variance, "
            "weak_test_variance_trimmed and smallest_cluster. If memory is too small, choose other metrics with --metrics.",
        ),
    ] = None,
    weighting: Annotated[
        Weighting,
        typer.Option(help="Weight every class equally (balanced), or by its number of samples (sample)."),
    ] = "balanced",
    metrics: MetricsOption = None,
    spectra: Annotated[
        bool, typer.Option("--spectra", help="Also compute eigenvalues and singular values, largest first.")
    ] = False,
    rcond: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Cut-off of pseudo-inverses, in [0, 1): singular values or eigenvalues below X times the largest are "
            "ignored. It applies to the between-class and the total covariance.",
        ),
    ] = None,
    format: Annotated[
        Format,
        typer.Option(help="Output format. csv has the columns name,split,value; warnings go to stderr."),
    ] = "table",
    output: OutputOption = None,
) -> None:
    """Measure neural collapse of features stored in files.

    Each file contains the arrays `features` (n, p) and `labels` (n,). Optional arrays are the classifier's `weight`
    (C, p) and `bias` (C,), and the network's decisions `predictions` (n,). Files in a folder are read one at a time.

    \b
    Examples:
      collapselab measure train.npz
      collapselab measure train.npz --test test.npz --metrics vci,ncc_agreement
      collapselab measure shards/ --format json --output collapse.json
    """  # noqa: D301 (Typer wants the backspace itself before lines it must not join)
    from collapselab.cli.output import check_output, show

    files = tuple(path for path in (train, test) if path is not None)
    if rcond is not None and not 0 <= rcond < 1:
        raise InputError(f"--rcond {rcond}: give a relative cut-off in [0, 1)")
    if output is not None:
        check_output(output, files)
    for path in files:
        check_exists(path)

    names = metric_names(metrics)
    from collapselab.features.measure import measure_sources
    from collapselab.features.sources import open_source

    if test is None and names is not None:
        _check_without_test(names)
    with ProgressBars() as bars:
        measurement = measure_sources(
            open_source(train),
            None if test is None else open_source(test),
            weighting=weighting,
            metrics=names,
            spectra=spectra,
            rcond=rcond,
            progress=bars.estimated_samples("--metrics makes it shorter"),
        )
    show(measurement, format, output, measure)


def _check_without_test(names: list[str]) -> None:
    """Refuse metrics that need test features, before any file is read."""
    from collapselab.metrics import select

    trained = {metric.name for metric in select(names, "train")}
    for name in names:
        if name not in trained:
            raise InputError(f"--metrics: {name} needs test features; give them with --test")
