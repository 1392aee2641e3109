"""The networks that are decoupled, each as L layers and a head.

A layer is the unit between two possible cuts: one convolution unit of a VGG, one residual block of
a ResNet (the stem belongs to the first). Convolutions have no bias, but for some of DGL's networks.
At ``width_multiplier=1`` VGG and ResNet have a quarter of the usual widths, as in SEDONA's
experiments on CIFAR-10; 4 gives the usual ones. All others have
their published widths at 1:

    dgl-cnn6, dgl-cnn4         DGL's study of auxiliary networks; its learning curves
    dgl-cnn6-buffer            its asynchronous training: no biases, pools one layer later
    dgl-vgg11 ... dgl-vgg19    its VGGs on ImageNet: biases, no dropout
    dni-cnn                    the network on which it compares with DNI
    cifar-resnet110            that on which it compares with DDG, shortcuts without weights
    cifar-resnet56             the like, on which FDG compares
    local-resnet32, -110       those of InfoPro and AugLocal: the stem is a layer of its own

`register_backbone` adds one of your own, and any classifier of torchvision, timm or one's own code
can be cut where a single tensor crosses, see `sedona_nni.models.sources` and `cutting`.
Sources: Pyeon et al., ICLR 2021 (widths, layers, stems); Belilovsky et al., ICML 2020 (DGL);
Wang et al., ICLR 2021 (InfoPro); Zhuang et al., TNNLS 2021 (FDG).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar, get_args

import torch
from torch import nn

from sedona_nni.errors import InputError
from sedona_nni.image_size import ImageSize, height_and_width
from sedona_nni.model_name import is_model_name
from sedona_nni.models.backbone import (
    ACTIVATIONS,
    Activation,
    Architecture,
    Backbone,
    BackboneContext,
    Layer,
    Parts,
    Stem,
    conv_unit,
    initialise,
    scaled_width,
)
from sedona_nni.models.dgl import dgl_cnn, dni_cnn
from sedona_nni.models.feature_shape import FeatureShape
from sedona_nni.models.pretrained import (
    FileOfWeights,
    classifier_entries,
    load_pretrained,
    shapes_of,
)
from sedona_nni.models.resnet import BASIC_DEPTHS, BOTTLENECK_DEPTHS, resnet, stem_in_words
from sedona_nni.models.sources import (
    as_backbone,
    cut_backbone,
    num_layers_of_model,
)
from sedona_nni.models.vgg import VGG_DEPTHS, vgg
from sedona_nni.registry import Registry

__all__ = [
    "ACTIVATIONS",
    "BACKBONES",
    "Activation",
    "Architecture",
    "Backbone",
    "BackboneContext",
    "FeatureShape",
    "Layer",
    "Stem",
    "as_backbone",
    "backbone_names",
    "build_backbone",
    "check_image_size",
    "check_stem",
    "conv_unit",
    "initialise",
    "num_layers",
    "register_backbone",
    "scaled_width",
    "stem_words",
]

BuildT = TypeVar("BuildT", bound=Callable[[BackboneContext], Parts])

_OURS = {
    **{
        name: Architecture(sum(depths), partial(vgg, depths), smallest_image=32)
        for name, depths in VGG_DEPTHS.items()
    },
    **{
        name: Architecture(
            sum(depths),
            partial(resnet, False, depths),
            smallest_image=8,
            auxiliary_expansion=1,
            stems=get_args(Stem),
        )
        for name, depths in BASIC_DEPTHS.items()
    },
    **{
        name: Architecture(
            sum(depths), partial(resnet, True, depths), smallest_image=8, stems=get_args(Stem)
        )
        for name, depths in BOTTLENECK_DEPTHS.items()
    },
    "dgl-cnn6": Architecture(6, partial(dgl_cnn, 6, 128, (1, 3)), smallest_image=8),
    "dgl-cnn4": Architecture(4, partial(dgl_cnn, 4, 64, (1, 3)), smallest_image=8),
    "dgl-cnn6-buffer": Architecture(
        6, partial(dgl_cnn, 6, 128, (2, 4), bias=False, hidden=3), smallest_image=8
    ),
    **{
        f"dgl-{name}": Architecture(
            sum(depths), partial(vgg, depths, width=64, bias=True, dropout=0.0), smallest_image=32
        )
        for name, depths in VGG_DEPTHS.items()
    },
    "dni-cnn": Architecture(4, dni_cnn, smallest_image=27),
    "cifar-resnet110": Architecture(
        54,
        partial(resnet, False, (18, 18, 18), padded_shortcuts=True),
        smallest_image=8,
        auxiliary_expansion=1,
    ),
    "cifar-resnet56": Architecture(
        27,
        partial(resnet, False, (9, 9, 9), padded_shortcuts=True),
        smallest_image=8,
        auxiliary_expansion=1,
    ),
    **{
        f"local-resnet{6 * depth + 2}": Architecture(
            1 + 3 * depth,
            partial(resnet, False, (depth, depth, depth), own_stem=True),
            smallest_image=8,
            auxiliary_expansion=1,
        )
        for depth in (5, 18)
    },
}

BACKBONES: Registry[Architecture] = Registry(
    "backbone", beside="torchvision:<model>, timm:<model> or <module>:<function>"
)
"""The backbones by name; `register_backbone` adds one."""

for _name, _architecture in _OURS.items():
    BACKBONES.add(_name, _architecture)


def backbone_names() -> list[str]:
    """Return the names of all registered backbones.

    Examples:
        >>> from sedona_nni import backbone_names
        >>> backbone_names()[:3]
        ['vgg11', 'vgg13', 'vgg16']
    """
    return [*BACKBONES]


def register_backbone(
    name: str,
    *,
    num_layers: int,
    smallest_image: int,
    auxiliary_expansion: int = 4,
    stems: tuple[Stem, ...] = ("published",),
    draws_weights: bool = True,
) -> Callable[[BuildT], BuildT]:
    """Return a decorator that registers a function under ``name``.

    It is called with a `BackboneContext` and returns the layers and the head, whose weights
    `build_backbone` then draws, whatever they were; unless ``draws_weights`` is False, as has to be
    for pretrained modules.

    Args:
        name: What it is called from then on.
        num_layers: L, how many layers it has.
        smallest_image: See `Architecture`, also for what follows.
        auxiliary_expansion: See there.
        stems: See there.
        draws_weights: See there.

    Raises:
        InputError: if the name is taken.

    Examples:
        >>> from torch import nn
        >>> from sedona_nni import FeatureShape, Layer, build_backbone, register_backbone
        >>> @register_backbone("tiny", num_layers=3, smallest_image=4)
        ... def tiny(context):
        ...     layers, channels, width = [], context.in_channels, 8
        ...     for number in range(3):
        ...         convolution = nn.Conv2d(channels, width, 3, padding=1)
        ...         unit = nn.Sequential(convolution, context.activation())
        ...         shape = FeatureShape(width, context.image_size)
        ...         layers.append(Layer(f"conv{number}", unit, shape))
        ...         channels = width
        ...     pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        ...     return layers, nn.Sequential(pool, nn.Linear(width, context.num_classes))
        >>> build_backbone("tiny", num_classes=2, image_size=4).layer_names
        ['conv0', 'conv1', 'conv2']
    """

    def register(build: BuildT) -> BuildT:
        architecture = Architecture(
            num_layers, build, smallest_image, auxiliary_expansion, stems, draws_weights
        )
        BACKBONES.add(name, architecture)
        return build

    return register


def num_layers(name: str, image_size: ImageSize = 224) -> int:
    """Return L of a backbone.

    Args:
        name: See `build_backbone`.
        image_size: That of the images, for models that are built and followed to find their layers.

    Raises:
        InputError: if the name is unknown, or it is of a model that cannot be built or cut.
    """
    if is_model_name(name):
        return num_layers_of_model(name, image_size)
    return BACKBONES[name].num_layers


def check_image_size(name: str, image_size: ImageSize) -> None:
    """Check that images are large enough for a backbone, and so for any auxiliary network in it.

    A model from elsewhere is not asked: it says so as it is built.

    Raises:
        InputError: if they are not, or the name is unknown.
    """
    if is_model_name(name):
        return
    smallest = BACKBONES[name].smallest_image
    if min(height_and_width(image_size)) < smallest:
        rule = f"must be at least {smallest} for {name}"
        raise InputError.rule("image_size", rule, image_size)


def check_stem(name: str, stem: str) -> None:
    """Check that a backbone can have a stem.

    Raises:
        InputError: if it cannot, or its name is unknown.
    """
    stems = ("published",) if is_model_name(name) else BACKBONES[name].stems
    if stem not in stems:
        raise InputError.rule("stem", f"must be {' or '.join(stems)} for {name}", stem)


def stem_words(backbone: Backbone) -> str | None:
    """Return what the stem is, where there is a choice, e.g. ``"published, 3x3 convolution"``."""
    if backbone.name not in BACKBONES or len(BACKBONES[backbone.name].stems) == 1:
        return None
    return f"{backbone.stem}, {stem_in_words(backbone.image_size, backbone.stem)}"


def build_backbone(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: ImageSize = 32,
    width_multiplier: float = 1.0,
    activation: Activation = nn.ReLU,
    stem: Stem = "published",
    weights: Path | str | None = None,
    reset_classifier: bool = False,
) -> Backbone:
    """Build a backbone, with freshly drawn weights or those of a file, on torch's default device.

    Args:
        name: Its name in `BACKBONES`, or that of a model from elsewhere, see
            `sedona_nni.models.sources`.
        num_classes: Number of classes, at least 2.
        in_channels: Channels of the images, at least 1.
        image_size: Height and width of the images, see `sedona_nni.image_size`.
        width_multiplier: Factor on every width, above 0, at most 1,000; 1 for a model from
            elsewhere.
        activation: Makes the non-linearity; not one that works in place.
        stem: Of a ResNet, see `sedona_nni.models.resnet`; others have no choice.
        weights: A file of weights for it, see `sedona_nni.models.pretrained`: by the backbone's
            names, ``layers.0...``, as `sedona_nni.export` writes them; or by those of a model from
            elsewhere.
        reset_classifier: Draw the classifier though that of the file would fit.

    Raises:
        InputError: if the name is unknown, a number breaks its rule, there is no such stem, the
            backbone has not as many layers as it was registered with, a model from elsewhere
            refuses its arguments or cannot be cut, or the file's weights are not its.

    Examples:
        >>> import torch
        >>> from sedona_nni import build_backbone
        >>> backbone = build_backbone("resnet18", num_classes=5, width_multiplier=0.25)
        >>> backbone(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """
    check_stem(name, stem)
    if num_classes < 2:
        raise InputError.rule("num_classes", "must be at least 2", num_classes)
    if in_channels < 1:
        raise InputError.rule("in_channels", "must be at least 1", in_channels)
    check_image_size(name, image_size)
    if not 0 < width_multiplier <= 1000:
        rule = "must be above 0 and at most 1,000"
        raise InputError.rule("width_multiplier", rule, width_multiplier)
    context = BackboneContext(
        num_classes, in_channels, image_size, width_multiplier, activation, stem
    )
    file = None if weights is None else FileOfWeights(Path(weights), reset_classifier)
    if is_model_name(name):
        if width_multiplier != 1:
            rule = f"must be 1 for {name}, whose own arguments may say how wide it is"
            raise InputError.rule("width_multiplier", rule, width_multiplier)
        return cut_backbone(name, context, file)
    backbone = _registered(name, context)
    if file is not None:
        backbone.fresh = load_pretrained(backbone, file, lambda: _classifier(name, context))
    return backbone


def _registered(name: str, context: BackboneContext) -> Backbone:
    architecture = BACKBONES[name]
    layers, head = architecture.build(context)
    if len(layers) != architecture.num_layers:
        rule = f"must be the {architecture.num_layers} that it was registered with"
        raise InputError.rule(f"layers of {name}", rule, len(layers))
    backbone = Backbone(name, layers, head, context, architecture.auxiliary_expansion)
    if architecture.draws_weights:
        initialise(backbone)
    return backbone


def _classifier(name: str, context: BackboneContext) -> frozenset[str]:
    """Return the entries of a backbone's state dict whose shape follows from the classes."""
    more = replace(context, num_classes=context.num_classes + 1)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return classifier_entries(*(shapes_of(_registered(name, each)) for each in (context, more)))
