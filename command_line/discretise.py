"""``discretise``: decouplings from a search result."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from sedona_nni.command_line.given import compute_of
from sedona_nni.command_line.options import (
    ComputeText,
    Device,
    ImageSizeText,
    InChannels,
    Json,
    MaxBlockMemory,
    MaxBlockShare,
    NumClasses,
    PassBatchSize,
    StemName,
    WidthMultiplier,
)
from sedona_nni.command_line.tables import show_table
from sedona_nni.command_line.telling import show_undecided, undecided_share
from sedona_nni.errors import InputError
from sedona_nni.files import user_path

if TYPE_CHECKING:
    from sedona_nni.decouplings.choice import FrontPoint
    from sedona_nni.decouplings.compute import Compute
    from sedona_nni.decouplings.outcome import SearchOutcome
    from sedona_nni.models import Stem


def derive(
    result: Annotated[
        Path,
        typer.Argument(
            help="JSON file of a search result, or published:<backbone>.", parser=user_path
        ),
    ],
    num_blocks: Annotated[
        int, typer.Option(help="K; 0: any number, without a bound wherever a_loc > a_up.")
    ],
    max_block_share: MaxBlockShare = None,
    max_block_memory: MaxBlockMemory = None,
    pareto: Annotated[
        bool,
        typer.Option(
            "--pareto", metavar="", help="Every best compromise of evidence and ideal speed-up."
        ),
    ] = False,
    count: Annotated[
        int, typer.Option("--leaders", min=1, help="So many decouplings, those of most evidence.")
    ] = 1,
    compute: ComputeText = "macs",
    batch_size: PassBatchSize = 128,
    device: Device = "auto",
    num_classes: NumClasses = 10,
    in_channels: InChannels = 3,
    image_size: ImageSizeText = "32",
    width_multiplier: WidthMultiplier = 1.0,
    stem: StemName = "published",
    output: Annotated[
        Path | None,
        typer.Option(help="Write the decoupling here.", parser=user_path, metavar="PATH"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Derive decouplings from a search result: what speaks for them, and what they promise.

    evidence is the sum over the cuts of log(a_loc / a_up) or, of a probing, of their weighted
    shortfalls in loss; the decoupling has the most evidence of all within the bound. largest share
    is the largest block's, with its auxiliary network, of the backbone's compute, and 1 /
    largest share the ideal speed-up of a pipeline with a device per block over back-propagation on
    one.
    """
    import torch

    from sedona_nni.decouplings.bounds import BlockBound
    from sedona_nni.decouplings.choice import FrontPoint, leaders, pareto_front
    from sedona_nni.files import check_output_file
    from sedona_nni.image_size import parse_image_size
    from sedona_nni.models import build_backbone
    from sedona_nni.searches.documents import document_path, load_outcome

    if output is not None:
        check_output_file("--output", output)
    size = parse_image_size(image_size, "--image-size")
    found = load_outcome(document_path(result))
    if pareto and count > 1:
        raise InputError.rule("--leaders", "must not be given with --pareto", count)
    if output is not None and (pareto or count > 1):
        several = "--pareto" if pareto else "--leaders"
        raise InputError.rule("--output", f"must not be given with {several}", str(output))
    with torch.device("cpu" if compute == "time" else "meta"):  # or nothing is computed
        backbone = build_backbone(
            found.backbone,
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=size,
            width_multiplier=width_multiplier,
            stem=cast("Stem", stem),
        )
    costs = compute_of(compute, backbone, found.aux_choices, device, batch_size)
    memory = None
    if max_block_memory is not None:
        memory = compute_of("memory", backbone, found.aux_choices, device, batch_size)
    if pareto:
        points = pareto_front(
            found,
            num_blocks,
            costs,
            max_block_share,
            memory=memory,
            max_block_memory=max_block_memory,
        )
    else:
        bound = BlockBound(costs, max_block_share, memory, max_block_memory)
        bounded = max_block_share is not None or max_block_memory is not None
        chosen = leaders(found, num_blocks, count, bound if bounded else None)
        points = [FrontPoint.of(found, each, costs) for each in chosen]
        if output is not None:
            chosen[0].save(output)
    _show_points(found, points, costs, as_json)


def _show_points(
    result: SearchOutcome, points: Iterable[FrontPoint], compute: Compute, as_json: bool
) -> None:
    """Show decouplings of a search result."""
    if as_json:
        shown = [
            {
                "decoupling": point.decoupling.model_dump(mode="json"),
                "evidence": point.evidence,
                "largest_share": point.largest_share,
                "ideal_speedup": point.ideal_speedup,
            }
            for point in points
        ]
        head = {**undecided_share(result), "compute": compute.as_provenance}
        print(json.dumps({**head, "decouplings": shown}))
        return
    show_table(
        ("decoupling", "evidence", "largest share", "ideal speed-up"),
        (
            [
                point.decoupling.in_words(),
                f"{point.evidence:.3g}",
                f"{point.largest_share:.1%}",
                f"{point.ideal_speedup:.2f}",
            ]
            for point in points
        ),
    )
    show_undecided(result)
