"""`collapselab profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collapselab.choices import AutoScatter, Standardize, Weighting
from collapselab.cli.options import DataOption, Format, OutputOption, copies_from
from collapselab.cli.progress import ProgressBars
from collapselab.cli.terminal import note
from collapselab.errors import InputError


def _refuse_old_option(value: str | None) -> None:
    if value is not None:
        raise InputError(f"--test-data {value}: this option is now --test-dataset {value}")


def profile(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="The network: mlp, convnet, torchvision/NAME, timm/NAME, or path/to/file.py:function.",
        ),
    ],
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            metavar="DATA",
            help="Data set to measure: a name (digits, mnist, fashion_mnist, cifar10, cifar100, svhn, stl10, "
            "imagenet), a folder of Parquet files (train-*.parquet) or of images (train/CLASS/*), a .npz file, or a "
            "Hugging Face hub id (owner/name).",
        ),
    ],
    test_dataset: Annotated[
        str | None,
        typer.Option(
            "--test-dataset",
            metavar="DATA",
            help="Measure the test split of this data set; default: the test split of --dataset.",
        ),
    ] = None,
    data: DataOption = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Weights to load, .safetensors or .pt; default: initial weights from --seed."
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Layers to measure: names and globs, comma-separated, !NAME to leave out; default: every linear and "
            "convolution layer.",
        ),
    ] = None,
    reduce: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="How to reduce features of several positions to a vector: flatten (all positions, one after another), "
            "gap (mean over positions), mean (mean over tokens), token (the first token), token:i (token i, counted from "
            "0; from the end if negative), token:last (the last that is not padding), token:cls (the class token, from "
            "which the head of the network computes the class scores).",
        ),
    ] = "flatten",
    channel_axis: Annotated[
        str | None,
        typer.Option(
            metavar="AXIS",
            help="For layers without weight (such as ReLU or pooling) that --layers names: the axis of their input that "
            "holds channels, as one number for all (1 or -1) or one per layer (NAME=1,GLOB=-1); default: that of the layer "
            "before.",
        ),
    ] = None,
    scatter: Annotated[
        AutoScatter,
        typer.Option(
            help="What to store of the within-class covariances. full: one p x p matrix; per_class: one per class; sketch: "
            "their product with 32 random directions; trace: one number. auto: full for layers with at most 1024 features "
            "(classifier: 4096) as long as all matrices fit in 1 GiB, otherwise sketch."
        ),
    ] = "auto",
    weighting: Annotated[
        Weighting,
        typer.Option(help="Weight every class equally (balanced), or by its number of samples (sample)."),
    ] = "balanced",
    epsilon: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="A layer is collapsed if the within-class share of its variance on train data is below this. The "
            "first collapsed layer is the earliest layer such that it and all later layers are collapsed.",
        ),
    ] = 0.2,
    batch_axis: Annotated[
        int | None,
        typer.Option(
            "--batch-axis",
            metavar="N",
            help="Axis of the network's inputs that holds samples; default: found by running part of a batch.",
        ),
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Output of the network that holds the class scores, by name or position."
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Layer that computes the class scores, if it is not found automatically."
        ),
    ] = None,
    ignore_index: Annotated[
        int | None,
        typer.Option("--ignore-index", metavar="N", help="Label of padding, which is not measured."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Maximum number of samples per split.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", help="Samples per forward pass.")
    ] = 128,
    device: Annotated[
        str, typer.Option(metavar="D", help="Device to run on: auto, cpu, cuda, cuda:1 or mps.")
    ] = "auto",
    stats_device: Annotated[
        str | None,
        typer.Option(
            "--stats-device",
            metavar="D",
            help="Device for class statistics, such as cpu if the GPU has no room for them; default: that of --device.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, metavar="N", help="Seed for initial weights and sketches.")
    ] = 0,
    standardize: Annotated[
        Standardize,
        typer.Option(
            help="For images: subtract the mean of the training images and divide by their standard deviation, per "
            "channel or per pixel, or do neither."
        ),
    ] = "channel",
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of an earlier profile, such as that of the initial weights, to draw in the same charts.",
        ),
    ] = None,
    format: Annotated[
        Format,
        typer.Option(
            help="Output format. csv has the columns layer,depth,split,name,value; warnings go to stderr."
        ),
    ] = "table",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Also write profile.json, class statistics and report.html to this folder.",
        ),
    ] = None,
    output: OutputOption = None,
    test_data: Annotated[
        str | None, typer.Option("--test-data", hidden=True, callback=_refuse_old_option)
    ] = None,
) -> None:
    """Measure every layer of a network on real data.

    The features of a layer are its inputs. One pass over the data reduces them to class statistics, a second finds
    the nearest class mean of each sample. Under torchrun, every process reads its share of the data.

    \b
    Examples:
      collapselab profile mlp --dataset digits
      collapselab profile torchvision/resnet18 --dataset cifar10 --data cifar10=sets/cifar10 --limit 1000
      collapselab profile mlp --dataset mnist --checkpoint final.safetensors --out profiles/final
      collapselab profile model.py:build --dataset images/ --layers "blocks.*" --reduce token --format json
    """  # noqa: D301 (Typer wants the backspace itself before lines it must not join)
    from collapselab.cli.output import check_output, show
    from collapselab.cli.profile_job import ProfileJob, run_job

    if output is not None:
        check_output(output, ())
    job = ProfileJob(
        model=model,
        dataset=dataset,
        test_dataset=test_dataset,
        copies=copies_from(data),
        checkpoint=checkpoint,
        limit=limit,
        batch_size=batch_size,
        device=device,
        standardize=standardize,
        against=against,
        out=out,
        options={
            "layers": layers,
            "reduce": reduce,
            "channel_axis": channel_axis,
            "scatter": scatter,
            "weighting": weighting,
            "epsilon": epsilon,
            "stats_device": stats_device,
            "seed": seed,
            "batch_axis": batch_axis,
            "scores": int(scores) if scores is not None and scores.isdecimal() else scores,
            "classifier": classifier,
            "ignore_index": ignore_index,
        },
    )
    with ProgressBars() as bars:
        result, lines = run_job(job, bars.samples)
    if result is None:  # another process prints
        return
    show(result, format, output, profile)
    for line in lines:
        note(line)
