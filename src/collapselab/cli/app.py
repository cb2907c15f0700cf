"""The command line: parse, call public functions, print. Whatever is wrong ends as one line on stderr.

torch and all that needs it is imported inside the commands, so that help and usage errors come at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from collapselab import __version__
from collapselab.cli.experiments import reproduce, run
from collapselab.cli.terminal import INTERRUPTED, ReaderLeft, note, print_text, sample_progress
from collapselab.errors import InputError, one_line

_USAGE = 2
_BROKEN_PIPE = 141

app = typer.Typer(
    name="collapselab", add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


class Weighting(str, Enum):
    """Class weights of the covariances and the global mean."""

    balanced = "balanced"
    sample = "sample"


class Format(str, Enum):
    """What is printed."""

    table = "table"
    json = "json"
    csv = "csv"


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(f"collapselab {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def collapselab(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Measure neural collapse in deep networks.

    \b
    Example:
      collapselab measure features.npz
    """  # noqa: D301 (Typer wants the backspace itself before lines it must not join)


@app.command()
def measure(
    train: Annotated[
        Path, typer.Argument(metavar="TRAIN", help="A .npz or .safetensors file, or a folder of such shards.")
    ],
    test: Annotated[
        Path | None,
        typer.Option(
            "--test",
            metavar="TEST",
            help="Test features, in the same forms; on large ones name --metrics but weak_test_variance.",
        ),
    ] = None,
    weighting: Annotated[
        Weighting, typer.Option(help="Class weights: every class the same, or by its samples.")
    ] = Weighting.balanced,
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metrics", metavar="NAME,NAME", help="Only these metrics, at only their cost."),
    ] = None,
    spectra: Annotated[
        bool, typer.Option("--spectra", help="Also eigenvalues and singular values, largest first.")
    ] = False,
    rcond: Annotated[
        float | None,
        typer.Option(metavar="X", help="Relative cut-off of both pseudo-inverses, in [0, 1)."),
    ] = None,
    format: Annotated[
        Format, typer.Option(help="csv has the columns name,split,value; its warnings go to stderr.")
    ] = Format.table,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write there instead of to standard output.")
    ] = None,
) -> None:
    """Measure neural collapse of features that are in files.

    Each file holds the arrays `features` (n, p) and `labels` (n,), and optionally the classifier's `weight`
    (C, p) and `bias` (C,) and the network's decisions, `predictions` (n,). Shards are read one at a time.

    \b
    Examples:
      collapselab measure train.npz
      collapselab measure train.npz --test test.npz --metrics vci,ncc_agreement
      collapselab measure shards/ --format json --output collapse.json
    """  # noqa: D301 (as above)
    from collapselab.cli.output import check_output, write_text
    from collapselab.features.measure import measure_sources
    from collapselab.features.sources import open_source

    names = _names(metrics, has_test=test is not None)
    if rcond is not None and not 0 <= rcond < 1:
        raise InputError(f"--rcond is {rcond}; give a relative cut-off in [0, 1)")
    if output is not None:
        check_output(output, tuple(path for path in (train, test) if path is not None))
    with sample_progress() as progress:
        measurement = measure_sources(
            open_source(train),
            None if test is None else open_source(test),
            weighting=weighting.value,
            metrics=names,
            spectra=spectra,
            rcond=rcond,
            progress=progress,
        )
    text = _rendered(measurement, format, to_terminal=output is None and sys.stdout.isatty())
    if format is Format.csv:
        for warning in measurement.warnings:
            note(f"warning: {one_line(warning)}")
    if output is None:
        print_text(text)
    else:
        write_text(output, text)
        note(f"wrote {output}")


class Scatter(str, Enum):
    """What is kept of the within-class scatter."""

    auto = "auto"
    full = "full"
    trace = "trace"
    sketch = "sketch"


class Standardize(str, Enum):
    """Which statistics of the training images are taken out."""

    channel = "channel"
    pixel = "pixel"
    none = "none"


@app.command()
def profile(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="mlp, convnet, torchvision/resnet18, timm/deit_tiny_patch16_224, or path/to/file.py:function.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DATA",
            help="digits, mnist, fashion_mnist, cifar10, cifar100, svhn, stl10, imagenet (COLLAPSELAB_DATA=NAME=PATH says "
            "where they are); a folder of Parquet files (train-*.parquet) or of images (train/CLASS/*); a .npz file; or "
            "a hub id, owner/name.",
        ),
    ],
    test_data: Annotated[
        str | None,
        typer.Option(
            "--test-data",
            metavar="DATA",
            help="In the same forms; default: the test split of --data, where it has one.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Weights, .safetensors or .pt; default: initial ones from --seed."),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="GLOB", help="Names and globs, commas between; default every linear and conv layer."
        ),
    ] = None,
    reduce: Annotated[
        str,
        typer.Option(metavar="HOW", help="flatten, gap, mean, token or token:i (one token of a sequence)."),
    ] = "flatten",
    scatter: Annotated[
        Scatter,
        typer.Option(
            help="Covariances: auto is full up to 1024 features (classifier 4096) and 1 GiB, else a sketch."
        ),
    ] = Scatter.auto,
    weighting: Annotated[
        Weighting, typer.Option(help="Class weights: every class the same, or by its samples.")
    ] = Weighting.balanced,
    epsilon: Annotated[
        float,
        typer.Option(metavar="X", help="A layer is collapsed below this share of variance within classes."),
    ] = 0.2,
    limit: Annotated[int | None, typer.Option(metavar="N", help="At most so many samples per split.")] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", help="Samples per forward pass.")
    ] = 128,
    device: Annotated[str, typer.Option(metavar="D", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of initial weights and of sketches.")] = 0,
    standardize: Annotated[
        Standardize, typer.Option(help="Images: less the mean of the training images, over their deviation.")
    ] = Standardize.channel,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="An earlier profile, as of initial weights, to draw beside this one."
        ),
    ] = None,
    format: Annotated[
        Format, typer.Option(help="csv has the columns layer,depth,split,name,value.")
    ] = Format.table,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Also write profile.json, class statistics and report.html."
        ),
    ] = None,
) -> None:
    """Measure every layer of a network on real data, in one pass and a second for nearest class centres.

    Features are what each layer reads. Under torchrun every process takes its share of the data.

    \b
    Examples:
      collapselab profile mlp --data digits
      collapselab profile torchvision/resnet18 --data cifar10/ --checkpoint resnet18.safetensors --out profiles/resnet18
      collapselab profile model.py:build --data images/ --layers "blocks.*" --reduce token --format json
    """  # noqa: D301 (as above)
    from collapselab.cli.profiling import ProfileJob, run_job

    job = ProfileJob(
        model=model,
        data=data,
        test_data=test_data,
        checkpoint=checkpoint,
        layers=layers,
        reduce=reduce,
        scatter=scatter.value,
        weighting=weighting.value,
        epsilon=epsilon,
        limit=limit,
        batch_size=batch_size,
        device=device,
        seed=seed,
        standardize=standardize.value,
        against=against,
        out=out,
    )
    with sample_progress() as progress:
        result, lines = run_job(job, progress)
    if result is None:  # another process prints
        return
    print_text(_rendered_profile(result, format))
    if format is Format.csv:
        for warning in result.warnings:
            note(f"warning: {one_line(warning)}")
    for line in lines:
        note(line)


def _names(options: list[str] | None, *, has_test: bool) -> list[str] | None:
    """The names of all `--metrics`, checked before any file is read."""
    from collapselab.metrics import select

    if not options:
        return None
    names = [name.strip() for option in options for name in option.split(",") if name.strip()]
    if not names:
        raise InputError("--metrics names none; leave it out for all, or give names with commas between")
    select(names, "train")
    if not has_test:
        trained = {metric.name for metric in select(names, "train")}
        for name in names:
            if name not in trained:
                raise InputError(f"--metrics: {name} is a metric of test data; give some with --test")
    return names


def _rendered(measurement: Any, format: Format, *, to_terminal: bool) -> str:
    from collapselab.cli.output import to_csv, to_json, to_table

    if format is Format.json:
        return to_json(measurement)
    if format is Format.csv:
        return to_csv(measurement)
    if not to_terminal:
        return to_table(measurement)
    import shutil

    return to_table(
        measurement, width=shutil.get_terminal_size().columns, colour="NO_COLOR" not in os.environ
    )


def _rendered_profile(profile: Any, format: Format) -> str:
    from collapselab.cli.output_profile import profile_to_csv, profile_to_json, profile_to_table

    if format is Format.json:
        return profile_to_json(profile)
    if format is Format.csv:
        return profile_to_csv(profile)
    if not sys.stdout.isatty():
        return profile_to_table(profile)
    import shutil

    width = shutil.get_terminal_size().columns
    return profile_to_table(profile, width=width, colour="NO_COLOR" not in os.environ)


app.command()(run)
app.command()(reproduce)


def _fail(message: object, code: int = _USAGE) -> NoReturn:
    note(f"error: {one_line(message)}")
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, or 2 and one line on stderr that begins `error:`.

    Args:
        arguments: default those of the process.
    """
    try:
        code = app(args=arguments, prog_name="collapselab", standalone_mode=False)
    except InputError as error:
        _fail(error)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except ReaderLeft:
        code = _BROKEN_PIPE
    except ImportError as error:
        _fail(error)
    except MemoryError as error:
        _fail(_memory_message(error))
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        _fail(f"{where}{error.strerror or error}; check the path and its permissions")
    except Exception as error:
        if _is_usage_error(error):
            _fail(_usage_message(error))
        # torch has no MemoryError
        if isinstance(error, RuntimeError) and (
            "allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError"
        ):
            _fail(_memory_message(error))
        raise
    if code == INTERRUPTED:  # newer versions of Typer catch the exception themselves
        _fail("interrupted", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _memory_message(error: Exception) -> str:
    return f"out of memory ({one_line(error) or 'no details'}); measure fewer features or samples at once"


def _is_usage_error(error: Exception) -> bool:
    # Typer's own copy of Click or Click itself, by version of Typer: both have this method and nothing else does.
    return hasattr(error, "format_message")


def _usage_message(error: Any) -> str:
    message = one_line(error.format_message()).rstrip(".").replace("Value error, ", "")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "collapselab"
    return f"{message[:1].lower()}{message[1:]}; see {path} --help"
