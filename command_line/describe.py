"""``describe``: what a network and its blocks cost."""

from __future__ import annotations

import json
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sedona_nni.command_line.given import decoupling_of
from sedona_nni.command_line.options import (
    DecouplingText,
    ImageSize,
    InChannels,
    Json,
    NumBlocks,
    NumClasses,
    StemName,
    WidthMultiplier,
)
from sedona_nni.command_line.tables import show_table

if TYPE_CHECKING:
    from sedona_nni.models import Stem


def describe(
    backbone: Annotated[
        str | None, typer.Option(help="Name of a backbone, by default that of the decoupling.")
    ] = None,
    decoupling: DecouplingText = "backprop",
    num_blocks: NumBlocks = None,
    num_classes: NumClasses = 10,
    in_channels: InChannels = 3,
    image_size: ImageSize = 32,
    width_multiplier: WidthMultiplier = 1.0,
    stem: StemName = "published",
    as_json: Json = False,
) -> None:
    """Show what a backbone, its auxiliary candidates and the blocks of a decoupling cost."""
    import torch

    from sedona_nni.decouplings.cost import describe as describe_cost
    from sedona_nni.models import build_backbone

    chosen = decoupling_of(decoupling, num_blocks, backbone)
    with torch.device("meta"):  # nothing is computed
        network = build_backbone(
            chosen.backbone,
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            width_multiplier=width_multiplier,
            stem=cast("Stem", stem),
        )
    described = describe_cost(network, chosen)
    if as_json:
        print(json.dumps(described))
        return
    print(
        f"{network.name}, width multiplier {width_multiplier:g}, images "
        f"{in_channels} x {image_size} x {image_size}, {num_classes} classes"
    )
    if described["stem"] is not None:
        print(f"stem: {described['stem']}")
    _show_parts(described)
    _show_layers(described)
    _show_candidates(described)
    print(chosen.in_words())
    _show_blocks(described)


def _show_parts(described: dict[str, Any]) -> None:
    """Show what the backbone is made of."""
    show_table(
        ("part", "parameters", "MACs"),
        (
            [part, *(f"{described[field][part]:,}" for field in ("parameters", "macs"))]
            for part in described["macs"]
        ),
    )


def _show_layers(described: dict[str, Any]) -> None:
    show_table(
        ("layer", "name", "width", "size", "parameters", "MACs"),
        (
            [f"{layer[k]:,}" if k in ("parameters", "macs") else str(layer[k]) for k in layer]
            for layer in described["layers"]
        ),
    )


def _show_candidates(described: dict[str, Any]) -> None:
    """Show every auxiliary network at every boundary, those of equal shape in one column."""
    columns = []
    for shape, same in groupby(described["boundaries"], key=itemgetter("width", "size")):
        group = list(same)
        places = sorted({group[0]["index"], group[-1]["index"]})
        columns.append(("-".join(map(str, places)), shape, group[0]["auxiliary"]))
    if not columns:
        return
    print("auxiliary networks by boundary, parameters / MACs")
    show_table(
        ("boundary:", *(f"{place} {width}x{size}x{size}" for place, (width, size), _ in columns)),
        (
            [name, *(_short(costs[name]) for _, _, costs in columns)]
            for name in described["boundaries"][0]["auxiliary"]
        ),
    )


def _short(cost: dict[str, int]) -> str:
    """Return parameters and MACs, thousands as k, millions as M."""
    return " / ".join(
        f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number / 1e3:.1f}k"
        for number in (cost["parameters"], cost["macs"])
    )


def _show_blocks(described: dict[str, Any]) -> None:
    show_table(
        (
            "block",
            "layers",
            "parameters",
            "MACs",
            "share",
            "auxiliary",
            "its parameters",
            "its MACs",
        ),
        (
            [
                str(block["index"]),
                f"{block['first_layer']}-{block['last_layer']}",
                f"{block['parameters']:,}",
                f"{block['macs']:,}",
                f"{block['share']:.1%}",
                block["aux"] or "(head)",
                *(f"{block['auxiliary'][field]:,}" for field in ("parameters", "macs")),
            ]
            for block in described["blocks"]
        ),
    )
    print(
        f"largest block: {described['largest_share']:.1%} of the MACs, so an ideal speed-up of "
        f"{described['ideal_speedup']:.2f} ({described['ideal_speedup_with_auxiliary']:.2f} with "
        "auxiliary networks)"
    )
