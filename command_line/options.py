"""Arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sedona_nni.errors import InputError
from sedona_nni.files import user_path

ExperimentName = Annotated[
    Path,
    typer.Argument(
        metavar="EXPERIMENT",
        help="An experiment's YAML file, or the name of one that comes with this project.",
        parser=user_path,
    ),
]
Port = Annotated[int, typer.Option(help="Of the web UI; if it is taken, the next free one.")]
Public = Annotated[
    bool,
    typer.Option(
        "--public", metavar="", help="Serve the web UI to the network. It asks nobody who he is."
    ),
]
Results = Annotated[
    Path,
    typer.Option(help="Folder for results/<experiment id>/.", parser=user_path, metavar="PATH"),
]


def _load_first(plugins: Sequence[str] | None) -> list[str]:
    """Load plug-ins before anything else is done, so that the names that they register are known.

    Raises:
        InputError: if one cannot be loaded.
    """
    from sedona_nni.plugins import load_installed, load_plugins

    load_installed()  # apart, as the option is not to blame for them
    try:
        load_plugins(plugins or [], Path.cwd())
    except InputError as error:
        raise InputError(f"--plugin: {str(error).removeprefix('plugins: ')}") from None
    return list(plugins or [])


Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        callback=_load_first,
        help="Load this first: a module of your own, or a file like ./my_networks.py, that "
        "registers auxiliary networks, methods, models, data sets or searches. May be repeated.",
    ),
]
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON for machines.")]
Folder = Annotated[
    Path,
    typer.Option(
        "--directory", help="For checkpoints and results.", parser=user_path, metavar="PATH"
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that read image files, 0 for none beside this one; by default as many as "
        "processors, at most 8.",
    ),
]
DecouplingText = Annotated[
    str,
    typer.Option(
        "--decoupling",
        help="JSON file of a decoupling or search result, published:<backbone> for SEDONA's "
        "published one, or a rule: backprop, uniform:<K>:<aux>, every:<layers per block>:<aux>, "
        "balanced:<K>:<aux> by MACs, or memory-balanced:<K>:<aux>.",
    ),
]
NumBlocks = Annotated[
    int | None,
    typer.Option(help="Blocks to derive from a search result; 0: cut wherever a_loc > a_up."),
]
MaxBlockShare = Annotated[
    str | None,
    typer.Option(
        help="Bound on the largest block's share of the compute, its auxiliary network included: "
        "e.g. 0.4, or 1.3/K."
    ),
]
ComputeText = Annotated[
    str,
    typer.Option(
        "--compute",
        help="What a share is of: macs; memory; time, measured here; or a file of measured times.",
    ),
]
PassBatchSize = Annotated[int, typer.Option(min=2, help="Images per measured pass, or step.")]
MaxBlockMemory = Annotated[
    str | None,
    typer.Option(
        help="Bound on what the largest block takes of memory, its auxiliary network included: "
        "MiB, e.g. 512, or a multiple of 1/K of back-propagation's, e.g. 1.3/K."
    ),
]
NumClasses = Annotated[int, typer.Option(help="Classes to tell apart.")]
InChannels = Annotated[int, typer.Option(help="Channels of the images.")]
ImageSizeText = Annotated[
    str,
    typer.Option(
        "--image-size",
        metavar="PIXELS",
        help="Height and width of the images: 64, or 48x64 for both in this order.",
    ),
]
BackboneName = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        "--model",
        help="Name of a backbone, or of a model from elsewhere: torchvision:resnet50, "
        "timm:convnext_tiny, my_package.nets:build; by default that of the decoupling.",
    ),
]
BoundariesText = Annotated[
    str | None,
    typer.Option(
        "--boundaries",
        help="Where layers of a model from elsewhere end: units, the default; all; so many, as a "
        "number; or names of places, with commas between.",
    ),
]
ModelArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--model-arg",
        metavar="NAME=VALUE",
        help="What a model from elsewhere is given; values as JSON. May be repeated.",
    ),
]
WidthMultiplier = Annotated[float, typer.Option(help="Factor on every width.")]
StemName = Annotated[str, typer.Option("--stem", help="Of a ResNet: published or torchvision.")]
