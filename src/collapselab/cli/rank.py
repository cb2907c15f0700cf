"""`collapselab rank`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collapselab.choices import Standardize
from collapselab.cli.options import DataOption, Format, OutputOption, check_data, copies_from, names_from
from collapselab.cli.progress import ProgressBars
from collapselab.cli.terminal import note
from collapselab.errors import InputError


def rank(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="What to rank, two or more. Networks: a run folder (its last checkpoint), a checkpoint in a run folder, or "
            "mlp, convnet, torchvision/NAME, timm/NAME, transformers/ID, a folder that save_pretrained wrote, or "
            "path/to/file.py:function, with weights as NAME=FILE. Or features of "
            "the target data: a .npz or .safetensors file, a folder of shards, or a folder with train and test.",
        ),
    ],
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            metavar="DATA",
            help="Data set to transfer to: a name, a path or a Hugging Face hub id, as for profile. May be given several "
            "times. Not for features.",
        ),
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Scores to compute, comma-separated; docs/scores.md defines them. Default: logme, h_score, shrunk_h_score, "
            "transrate, leep, ncti, ncc_accuracy, normalized_within, fuzziness, vci, vci_adjusted, cdnv.",
        ),
    ] = None,
    by: Annotated[str, typer.Option(metavar="NAME", help="Score that orders the models.")] = "logme",
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="Also measure transfer: the test accuracy of a linear probe. Takes longer."
        ),
    ] = False,
    stability: Annotated[
        bool,
        typer.Option(
            "--stability/--no-stability",
            help="Compute every score on two halves of the samples too, to see whether it orders the models alike.",
        ),
    ] = True,
    limit: Annotated[
        int, typer.Option(metavar="N", help="Maximum number of samples per split, drawn at random.")
    ] = 10_000,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            metavar="N",
            help="Resize images to N x N pixels, for networks that take any size.",
        ),
    ] = None,
    standardize: Annotated[
        Standardize | None,
        typer.Option(
            help="Standardise images by the mean and standard deviation of the target's training images, per channel or per "
            "pixel, or not at all. Default: as a run was trained, otherwise channel."
        ),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained",
            help="Networks by name have the weights that timm, torchvision or the hub publish; fetched once.",
        ),
    ] = False,
    checkpoint_key: Annotated[
        str | None,
        typer.Option(
            "--checkpoint-key",
            metavar="KEY",
            help="Place of the weights in every FILE of NAME=FILE, such as model_ema, or what their names begin with. "
            "Default: the weights that fit the network.",
        ),
    ] = None,
    preprocess: Annotated[
        bool | None,
        typer.Option(
            "--preprocess/--no-preprocess",
            help="Prepare inputs of networks by name as the network was trained with, instead of --image-size and "
            "--standardize. Default: with published weights.",
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Layer whose inputs are the features. Default: the classifier."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", help="Samples per forward pass.")
    ] = 128,
    device: Annotated[
        str, typer.Option(metavar="D", help="Device to run on: auto, cpu, cuda, cuda:1 or mps.")
    ] = "auto",
    seed: Annotated[
        int,
        typer.Option(min=0, max=2**63 - 1, metavar="N", help="Seed for samples, splits and initial weights."),
    ] = 0,
    data: DataOption = None,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Keep extracted features, at most 10 GiB, in the folder in COLLAPSELAB_CACHE or in ~/.cache/collapselab. "
            "Features of networks from Python files are never kept.",
        ),
    ] = True,
    format: Annotated[
        Format,
        typer.Option(
            help="Output format. csv has the columns dataset,model,name,value; warnings go to stderr."
        ),
    ] = "table",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Also write ranking.json and report.html to this folder."),
    ] = None,
    output: OutputOption = None,
) -> None:
    """Rank checkpoints: which one should I take for my data?

    Features are what the classifier of a network reads. Scores predict from them, without training, how well a network
    transfers; with --probe, transfer is measured too, and the table says which scores predicted it.

    \b
    Examples:
      collapselab rank runs/*/ --on mnist --data mnist=sets/mnist
      collapselab rank runs/a/checkpoints/step-*.safetensors --on digits --probe
      collapselab rank torchvision/resnet18=r18.pt timm/resnet26=r26.safetensors --on cifar10 --out ranking
      collapselab rank features/*.npz --by shrunk_h_score --format json
    """  # noqa: D301 (Typer wants the backspace itself before lines it must not join)
    from collapselab.cli.output import check_output, make_result_folder, show

    copies = copies_from(data)
    check_data(*(on or ()))
    from collapselab.ranking import rank as ranked
    from collapselab.ranking.page import FILES, write_ranking

    if output is not None:
        check_output(output, ())
    names = None if scores is None else names_from(scores)
    if names == []:
        raise InputError(
            "--scores: no names given; give comma-separated names, or leave it out for the default"
        )
    if out is not None:
        make_result_folder(out, FILES, "a ranking")
    with ProgressBars() as bars:
        result = ranked(
            sources,
            on or (),
            scores=names,
            by=by,
            probe=probe,
            stability=stability,
            limit=limit,
            image_size=image_size,
            standardize=standardize,
            pretrained=pretrained,
            checkpoint_key=checkpoint_key,
            preprocess=preprocess,
            layer=layer,
            batch_size=batch_size,
            device=device,
            seed=seed,
            copies=copies,
            cache=cache,
            progress=bars.work,
        )
    if out is not None:  # first: whoever reads the output may stop reading
        for line in write_ranking(out, result):
            note(line)
    show(result, format, output, rank)
