"""``export``: where a network is cut, for other pipelines."""

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

_FORMS = ("pipelining", "torchtitan")


def export_cuts(
    to: Annotated[str, typer.Option(help="Whose form: pipelining or torchtitan.")],
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
        typer.Option(help="Write it here instead.", parser=user_path, metavar="PATH"),
    ] = None,
) -> None:
    """Write where to split a network for a pipeline that keeps exact gradients.

    pipelining is the split_spec of torch.distributed.pipelining.pipeline: names of modules, and of
    the SplitPoint at each. torchtitan is its module_fqns_per_model_part: the modules of each stage.
    Names are those of the plain network, without auxiliary networks.
    """
    import torch

    from sedona_nni.decouplings.balance import balanced_decoupling
    from sedona_nni.decouplings.split import split_points, stage_modules
    from sedona_nni.files import check_output_file, write_json
    from sedona_nni.image_size import parse_image_size
    from sedona_nni.models import backbone_names, build_backbone
    from sedona_nni.teachers import NO_AUXILIARY

    size = parse_image_size(image_size, "--image-size")
    backbone = model_name_of(backbone, boundaries, model_arg)
    if to not in _FORMS:
        raise InputError.rule("--to", f"must be one of {', '.join(_FORMS)}", to)
    if output is not None:
        check_output_file("--output", output)
    if (balanced is None) == (decoupling is None):
        raise InputError("--decoupling: must be given, or --balanced, and not both")
    if decoupling is not None:
        if compute is not None:
            raise InputError.rule("--compute", "must be given with --balanced only", compute)
        chosen = decoupling_of(decoupling, num_blocks, backbone, size)
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
