"""`collapselab profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collapselab.choices import AutoScatter, Standardize, Weighting
from collapselab.cli.options import (
    DataOption,
    Format,
    MetricsOption,
    OutputOption,
    check_data,
    copies_from,
    metric_names,
)
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
            help="The network: mlp, convnet, vgg11, torchvision/NAME, timm/NAME, transformers/ID, a folder that save_pretrained "
            "wrote, or path/to/file.py:function.",
        ),
    ],
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            metavar="DATA",
            help="Data set to measure: a name, a path or a Hugging Face hub id such as owner/name. Names: digits, mnist, "
            "fashion_mnist, cifar10, cifar100, svhn, stl10, imagenet. Paths: a .npz file, a folder with train-*.parquet or "
            "train/CLASS/*.png, or a folder written by save_to_disk.",
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
            metavar="FILE",
            help="Weights to load: a state dict saved by torch or safetensors, also inside a checkpoint of a trainer. "
            "Default: initial weights from --seed.",
        ),
    ] = None,
    checkpoint_key: Annotated[
        str | None,
        typer.Option(
            "--checkpoint-key",
            metavar="KEY",
            help="Place of the weights in the file of --checkpoint, such as model_ema, or what their names begin with. "
            "Default: the weights that fit the network.",
        ),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained",
            help="Load the weights that timm, torchvision or the Hugging Face hub publish for the network; fetched once.",
        ),
    ] = False,
    preprocess: Annotated[
        bool | None,
        typer.Option(
            "--preprocess/--no-preprocess",
            help="Prepare images as the network was trained with (timm's data_config, torchvision's transforms, the image "
            "processor of transformers), instead of --image-size and --standardize. Default: with published weights.",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            min=1,
            metavar="N",
            help="Resize images to N x N pixels, for networks that take any size. Default: their size; if they have several, "
            "the median size, at most 224 x 224.",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Layers to measure: comma-separated names or globs. !NAME leaves a layer out. Default: every linear and "
            "convolution layer.",
        ),
    ] = None,
    reduce: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="How to reduce the features of several positions to one vector. auto: of a sequence the token that the head "
            "of the network reads, or else the mean of the tokens; of a feature map with more than 4096 features the mean "
            "over positions; anything else is flattened. flatten: all positions, one after "
            "another. gap: mean over the positions of a feature map. mean: mean over the tokens of a sequence. token: the "
            "first token. token:i: token i, counted from 0; a negative i counts from the end. token:last: the last token that "
            "is not padding. token:cls: the class token, which the network uses to compute the class scores.",
        ),
    ] = "auto",
    metrics: MetricsOption = None,
    channel_axis: Annotated[
        str | None,
        typer.Option(
            metavar="AXIS",
            help="Axis that holds the channels in the input of layers without weight, such as ReLU or pooling. Give one "
            "number for all of them, such as 1 or -1, or one per layer, such as NAME=1,GLOB=-1. Default: the channel axis "
            "of the preceding layer.",
        ),
    ] = None,
    scatter: Annotated[
        AutoScatter,
        typer.Option(
            help="How to store within-class covariance. full: the pooled within-class covariance, one p x p matrix for all "
            "classes. per_class: one p x p matrix per class. sketch: the product of the pooled within-class covariance with "
            "32 random directions. trace: only the trace of the pooled within-class covariance. auto: full "
            "if a layer has at most 1024 features (the classifier: 4096), otherwise sketch. If the full matrices of all layers "
            "would take more than 1 GiB, the first layers get a sketch."
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
            help="Threshold: a layer is collapsed if the within-class share of its variance on train data is below this "
            "value. The first collapsed layer is the earliest layer such that it and all later layers are collapsed.",
        ),
    ] = 0.2,
    batch_axis: Annotated[
        int | None,
        typer.Option(
            "--batch-axis",
            metavar="N",
            help="Axis of the network's inputs that holds samples. Default: found automatically, by passing a part of "
            "a batch through the network.",
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
        typer.Option(
            "--ignore-index",
            metavar="N",
            help="Label of padding. Samples and positions with this label are not measured.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Maximum number of samples per split.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1024,
            metavar="N",
            help="Processes that decode images whenever they are read. Default: images are decoded once and kept in memory; if "
            "they do not fit, one process per processor but one, at most 8. Results do not depend on it.",
        ),
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
            help="Device for class statistics; default: the device of --device. Use cpu if the GPU has no room for them.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, metavar="N", help="Seed for initial weights and sketches.")
    ] = 0,
    standardize: Annotated[
        Standardize,
        typer.Option(
            help="Standardise images: subtract the mean of the training images and divide by their standard deviation. "
            "Both are computed per channel or per pixel; none leaves images as they are."
        ),
    ] = "channel",
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of an earlier profile, such as a profile of the initial weights. It is drawn in the same charts.",
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

    The features of a layer are its inputs. A first pass over the data computes class statistics of the features. A
    second pass finds the nearest class mean of each sample. Under torchrun, every process reads its share of the data.

    \b
    Examples:
      collapselab profile mlp --dataset digits
      collapselab profile torchvision/resnet18 --dataset cifar10 --data cifar10=sets/cifar10 --limit 1000
      collapselab profile mlp --dataset mnist --checkpoint final.safetensors --out profiles/final
      collapselab profile model.py:build --dataset images/ --layers "blocks.*" --reduce token --format json
    """  # noqa: D301 (Typer wants the backspace itself before lines it must not join)
    from collapselab.cli.output import check_output, show

    names, copies = metric_names(metrics), copies_from(data)
    check_data(dataset, test_dataset)
    from collapselab.cli.profile_job import ProfileJob, run_job

    if output is not None:
        check_output(output, ())
    job = ProfileJob(
        model=model,
        dataset=dataset,
        test_dataset=test_dataset,
        copies=copies,
        checkpoint=checkpoint,
        checkpoint_key=checkpoint_key,
        pretrained=pretrained,
        preprocess=preprocess,
        image_size=image_size,
        limit=limit,
        batch_size=batch_size,
        device=device,
        standardize=standardize,
        workers=workers,
        against=against,
        out=out,
        options={
            "layers": layers,
            "reduce": reduce,
            "metrics": names,
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
        result, lines = run_job(
            job, bars.estimated_samples("--layers, --metrics, --limit or another --reduce make it shorter")
        )
    if result is None:  # another process prints
        return
    show(result, format, output, profile)
    for line in lines:
        note(line)
