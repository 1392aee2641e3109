"""``export``: a trained network, for use without this project; cuts, for pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from sedona_nni.command_line.given import compute_of, decoupling_of, model_name_of
from sedona_nni.command_line.options import (
    BackboneName,
    BoundariesText,
    Device,
    ImageSizeText,
    InChannels,
    ModelArgs,
    NumBlocks,
    NumClasses,
    PassBatchSize,
    StemName,
    WidthMultiplier,
)
from sedona_nni.errors import InputError
from sedona_nni.files import user_path

if TYPE_CHECKING:
    from sedona_nni.models import Stem

_CUTS = ("pipelining", "torchtitan")
_NETWORKS = ("state-dict", "torch-export", "onnx")
_OF_NETWORKS = {"to", "directory", "output", "plugins"}


def export(
    context: typer.Context,
    to: Annotated[
        str,
        typer.Option(
            help="Of a trained network: state-dict, torch-export or onnx; of cuts: pipelining or "
            "torchtitan."
        ),
    ],
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIRECTORY",
            help="Of a network: what `train`, or a trial, has trained into; or results/<id>.",
            parser=user_path,
        ),
    ] = None,
    backbone: BackboneName = None,
    decoupling: Annotated[
        str | None,
        typer.Option(
            help="JSON file of a decoupling or search result, published:<backbone> for SEDONA's "
            "published one, or a rule, as in train."
        ),
    ] = None,
    num_blocks: NumBlocks = None,
    balanced: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Instead: cut into K stages of which the largest takes least compute.",
        ),
    ] = None,
    compute: Annotated[
        str | None,
        typer.Option(
            help="Of --balanced: macs, the default; time, measured here; or a file that has "
            "measured times."
        ),
    ] = None,
    batch_size: PassBatchSize = 128,
    device: Device = "auto",
    num_classes: NumClasses = 10,
    in_channels: InChannels = 3,
    image_size: ImageSizeText = "32",
    width_multiplier: WidthMultiplier = 1.0,
    stem: StemName = "published",
    boundaries: BoundariesText = None,
    model_arg: ModelArgs = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write it here; of cuts, by default to the terminal.",
            parser=user_path,
            metavar="PATH",
        ),
    ] = None,
) -> None:
    """Write a trained network for use without this project, or where to split one for a pipeline.

    A network is the plain one, without cuts and auxiliary networks. state-dict is its weights as
    .safetensors, by the names of the model itself; torch-export a .pt2 of torch.export, and onnx a
    model of ONNX, in evaluation mode and for any number of images. A JSON file beside it says the
    classes, and how images have to be.

    Cuts are for pipelines that keep exact gradients. pipelining is the split_spec of
    torch.distributed.pipelining.pipeline: names of modules, and of the SplitPoint at each.
    torchtitan is its module_fqns_per_model_part: the modules of each stage.
    """
    if to not in (*_NETWORKS, *_CUTS):
        raise InputError.rule("--to", f"must be one of {', '.join((*_NETWORKS, *_CUTS))}", to)
    if to in _NETWORKS:
        _check_alone(context, to)
        _export_network(directory, to, output)
        return
    if directory is not None:
        rule = f"must be given with --to {', '.join(_NETWORKS)} only"
        raise InputError.rule("DIRECTORY", rule, str(directory))
    import torch

    from sedona_nni.decouplings.balance import balanced_decoupling
    from sedona_nni.decouplings.split import split_points, stage_modules
    from sedona_nni.files import check_output_file, write_json
    from sedona_nni.image_size import parse_image_size
    from sedona_nni.models import backbone_names, build_backbone
    from sedona_nni.teachers import NO_AUXILIARY
    from sedona_nni.teachers.auxiliary import check_plain

    size = parse_image_size(image_size, "--image-size")
    backbone = model_name_of(backbone, boundaries, model_arg)
    if output is not None:
        check_output_file("--output", output)
    if (balanced is None) == (decoupling is None):
        raise InputError("--decoupling: must be given, or --balanced, and not both")
    if decoupling is not None:
        if compute is not None:
            raise InputError.rule("--compute", "must be given with --balanced only", compute)
        chosen = decoupling_of(decoupling, num_blocks, backbone, size)
        check_plain(chosen.aux, "for a pipeline")
        backbone = chosen.backbone
    elif backbone is None:
        raise InputError(f"--backbone: must be given, one of {', '.join(backbone_names())}")
    with torch.device("cpu" if compute == "time" else "meta"):  # or nothing is computed
        network = build_backbone(
            backbone,
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=size,
            width_multiplier=width_multiplier,
            stem=cast("Stem", stem),
        )
    if balanced is not None:
        if num_blocks is not None:
            raise InputError.rule("--num-blocks", "must not be given with --balanced", num_blocks)
        costs = compute_of(compute or "macs", network, [], device, batch_size)
        costs.check_covers(backbone, [])
        chosen = balanced_decoupling(costs, balanced, NO_AUXILIARY)
    exported: object = split_points(chosen)
    if to == "torchtitan":
        exported = stage_modules(chosen, network.num_layers)
    if output is None:
        print(json.dumps(exported))
    else:
        write_json(output, exported)


def _check_alone(context: typer.Context, to: str) -> None:
    """Check that none of the options is given that say where a network is cut."""
    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        if option.name not in _OF_NETWORKS and source is not None and source.name == "COMMANDLINE":
            rule = f"must not be given with --to {to}"
            raise InputError.rule(option.opts[0], rule, context.params[str(option.name)])


def _export_network(directory: Path | None, to: str, output: Path | None) -> None:
    from sedona_nni.files import check_output_file
    from sedona_nni.training.plain_files import SUFFIXES, write_plain
    from sedona_nni.trials.plain_model import trained_plain_model

    if directory is None:
        raise InputError(f"DIRECTORY: must be given with --to {to}, where a network was trained")
    if output is None:
        raise InputError(f"--output: must be given with --to {to}, a file {SUFFIXES[to]}")
    if output.suffix != SUFFIXES[to]:
        raise InputError.rule("--output", f"must end with {SUFFIXES[to]}", str(output))
    check_output_file("--output", output)
    model, images = trained_plain_model(directory)
    write_plain(model, images, to, output)
