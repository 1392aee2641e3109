"""``describe``: what a network and its blocks cost."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from sedona_nni.command_line.given import compute_of, decoupling_of, model_name_of
from sedona_nni.command_line.options import (
    BackboneName,
    BoundariesText,
    DecouplingText,
    ImageSizeText,
    InChannels,
    Json,
    ModelArgs,
    NumBlocks,
    NumClasses,
    StemName,
    WidthMultiplier,
)
from sedona_nni.command_line.tables import show_table

if TYPE_CHECKING:
    from sedona_nni.models import Backbone, Stem

_MIB = ("meta_step_on_gpu", "meta_step_on_cpu", "snapshots")


def describe(
    backbone: BackboneName = None,
    decoupling: DecouplingText = "backprop",
    num_blocks: NumBlocks = None,
    num_classes: NumClasses = 10,
    in_channels: InChannels = 3,
    image_size: ImageSizeText = "32",
    width_multiplier: WidthMultiplier = 1.0,
    stem: StemName = "published",
    boundaries: BoundariesText = None,
    model_arg: ModelArgs = None,
    batch_size: Annotated[int, typer.Option(min=2, help="Images per step, for memory.")] = 128,
    search: Annotated[
        bool,
        typer.Option("--search", help="Also what SEDONA's search takes; may need a minute."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what a backbone, its auxiliary candidates and the blocks of a decoupling cost.

    Memory is that of training with the default settings, each block from its own loss, and of a
    search with the default settings and conv1 to conv4 at every boundary.
    """
    import torch

    from sedona_nni.decouplings.compute import Compute
    from sedona_nni.decouplings.cost import describe as describe_cost
    from sedona_nni.decouplings.cost import heavy_auxiliary
    from sedona_nni.decouplings.memory import describe_memory
    from sedona_nni.image_size import parse_image_size, size_in_words
    from sedona_nni.models import build_backbone
    from sedona_nni.training.settings import TrainSettings
    from sedona_nni.training.step_form import step_form

    size = parse_image_size(image_size, "--image-size")
    backbone = model_name_of(backbone, boundaries, model_arg)

    def built(name: str) -> Backbone:
        with torch.device("meta"):  # nothing is computed
            return build_backbone(
                name,
                num_classes=num_classes,
                in_channels=in_channels,
                image_size=size,
                width_multiplier=width_multiplier,
                stem=cast("Stem", stem),
            )

    def counted(unit: Literal["macs", "memory"], aux: str) -> Compute:
        assert backbone is not None  # or there is no rule
        return compute_of(unit, built(backbone), [aux], "cpu", batch_size)

    chosen = decoupling_of(decoupling, num_blocks, backbone, size, costs=counted)
    network = built(chosen.backbone)
    described = describe_cost(network, chosen)
    memory = describe_memory(network, chosen, step_form(TrainSettings(batch_size=batch_size)))
    for parts in ("blocks", "boundaries"):
        for part, own in zip(described[parts], memory.pop(parts), strict=True):
            part["memory"] = own
    described["memory"] = memory
    if search:
        described["search"] = _described_search(built(chosen.backbone), batch_size)
    if (heavy := heavy_auxiliary(network, chosen)) is not None:
        print(f"sedona-nni: {heavy}", file=sys.stderr)
    if as_json:
        print(json.dumps(described))
        return
    print(
        f"{network.name}, width multiplier {width_multiplier:g}, images "
        f"{in_channels} x {size_in_words(size)}, {num_classes} classes"
    )
    if described["stem"] is not None:
        print(f"stem: {described['stem']}")
    _show_parts(described)
    _show_layers(described)
    _show_candidates(described)
    print(chosen.in_words())
    _show_blocks(described)
    _show_memory(described)
    if search:
        _show_search(described["search"])


def _described_search(network: Backbone, batch_size: int) -> dict[str, Any]:
    """Return what a search takes, bytes, and with which settings."""
    import torch

    from sedona_nni.searches.sedona.memory import memory_of_search
    from sedona_nni.searches.sedona.settings import SearchSettings

    settings, threads = SearchSettings(batch_size=batch_size), torch.get_num_threads()
    aux = [f"conv{depth}" for depth in range(1, 5)]
    on_cpu = memory_of_search(network, aux, settings, threads=threads)
    on_gpu = memory_of_search(network, aux, settings, on_gpu=True)
    told = ("batch_size", "validation_batch_size", "inner_steps", "memory_size")
    return {
        **settings.model_dump(include=set(told)),
        "aux": aux,
        "threads": threads,
        "meta_step_on_cpu": on_cpu.meta_step,
        "meta_step_on_gpu": on_gpu.meta_step,
        "snapshots": on_cpu.snapshots,
    }


def _show_search(of_search: dict[str, Any]) -> None:
    mib = {name: f"{number / 2**20:,.0f} MiB" for name, number in of_search.items() if name in _MIB}
    print(
        f"a search with {', '.join(of_search['aux'])} at every boundary: a meta-step "
        f"({of_search['inner_steps']} steps of {of_search['batch_size']} images ahead, "
        f"{of_search['validation_batch_size']} to validate) {mib['meta_step_on_gpu']} on a GPU, "
        f"{mib['meta_step_on_cpu']} on {of_search['threads']} CPU threads; "
        f"{of_search['memory_size']} snapshots {mib['snapshots']} of main memory"
    )


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
        ("layer", "name", "output", "parameters", "MACs"),
        (
            [
                str(layer["index"]),
                layer["name"],
                _shape(layer),
                *(f"{layer[field]:,}" for field in ("parameters", "macs")),
            ]
            for layer in described["layers"]
        ),
    )


def _show_candidates(described: dict[str, Any]) -> None:
    """Show every auxiliary network at every boundary, those of equal shape in one column."""
    columns = []
    for shape, same in groupby(described["boundaries"], key=_shape):
        group = list(same)
        places = sorted({group[0]["index"], group[-1]["index"]})
        columns.append(("-".join(map(str, places)), shape, group[0]["auxiliary"]))
    if not columns:
        return
    print("auxiliary networks by boundary, parameters / MACs")
    show_table(
        ("boundary:", *(f"{place} {shape}" for place, shape, _ in columns)),
        (
            [name, *(_short(costs[name]) for _, _, costs in columns)]
            for name in described["boundaries"][0]["auxiliary"]
        ),
    )


def _shape(place: dict[str, Any]) -> str:
    """Return what crosses, e.g. ``64x8x8`` or ``tokens 65x192``."""
    layout = "" if place["layout"] == "map" else f"{place['layout']} "
    return layout + "x".join(map(str, place["shape"]))


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
    for block in described["blocks"]:
        if block["kind"] is not None:
            print(_beginning_in_words(block))
    if not described["parallel"]:
        used = _short(described["inference"])
        print(f"such blocks are trained in one process; parameters / MACs in inference: {used}")


def _beginning_in_words(block: dict[str, Any]) -> str:
    """Say what a cut of a further kind costs the block above it."""
    where, first = f"block {block['index']}", block["first_layer"]
    if block["kind"] == "overlap":
        again = f"{block['beginning']['macs']:,} MACs, in training alone"
        return f"{where} also learns through layer {first - 1}: {again}"
    source = "the images" if block["kind"] == "image" else "what the block below is given"
    return f"{where} has a context of {source}: {_short(block['beginning'])}, in inference, too"


def _show_memory(described: dict[str, Any]) -> None:
    """Show what each block takes in training."""
    columns = ("activations", "weights", "gradients", "optimizer", "total", "peak")
    show_table(
        ("block", *(f"{name}, MiB" for name in columns)),
        (
            [str(block["index"]), *(f"{block['memory'][name] / 2**20:,.1f}" for name in columns)]
            for block in described["blocks"]
        ),
    )
    memory = described["memory"]
    print(
        f"a step of {memory['batch_size']} images: {memory['one_process'] / 2**20:,.0f} MiB at its "
        "peak in one process"
        + (
            f", {memory['largest_rank'] / 2**20:,.0f} MiB in a process that holds only the block "
            "that takes most"
            if described["parallel"]
            else ""
        )
    )
