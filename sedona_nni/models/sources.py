"""Models that are not this project's, by name: torchvision's, timm's, and a user's own.

    torchvision:resnet50      a classifier of `torchvision.models`, see ``list_models`` there
    timm:convnext_tiny        one of timm's, which is the extra ``models``
    my_package.nets:build     what a function of a module returns; the module is a plug-in, see
                              `sedona_nni.plugins`

All are given ``num_classes``, and the size of the images and their channels where they ask for
them: a function of one's own by naming ``image_size`` (see `sedona_nni.image_size`) or
``in_channels`` among its arguments. Weights are drawn by the model's own code. Where layers end is
found, see `sedona_nni.models.cutting`, unless names are given.

What such a name looks like: `sedona_nni.model_name`.
"""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sedona_nni.errors import InputError
from sedona_nni.image_size import ImageSize, height_and_width
from sedona_nni.model_name import ModelName
from sedona_nni.models.backbone import Activation, Backbone, BackboneContext, Layer
from sedona_nni.models.cutting.cut_model import CutPlan, plan_cut
from sedona_nni.models.cutting.cut_points import Boundaries
from sedona_nni.models.cutting.tracing import without_memory
from sedona_nni.models.feature_shape import shape_of_features
from sedona_nni.models.pretrained import (
    FileOfWeights,
    classifier_entries,
    load_pretrained,
    shapes_of,
)
from sedona_nni.plugins import load_plugins

__all__ = [
    "as_backbone",
    "build_model",
    "cut_backbone",
    "num_layers_of_model",
]

# Auxiliary classifiers, which are no part of a network in evaluation; and drawing weights as the
# paper does, which torchvision otherwise warns of
_TORCHVISION = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
_AUXILIARY = {
    "torchvision:googlenet": ("aux1.", "aux2."),
    "torchvision:inception_v3": ("AuxLogits.",),
}


def build_model(
    name: ModelName, *, num_classes: int, in_channels: int = 3, image_size: ImageSize = 224
) -> nn.Module:
    """Build a model with the weights that its own code draws, on the CPU.

    Raises:
        InputError: if there is no such model, or it refuses its arguments.
        ModuleNotFoundError: if timm is not installed.
    """
    if "num_classes" in name.args:
        rule = "must not have num_classes, which the images give"
        raise InputError.rule("model_args", rule, name.args["num_classes"])
    find = {"torchvision": _of_torchvision, "timm": _of_timm}.get(name.source, _of_module)
    builder, given = find(name, in_channels, image_size)
    given = {**given, **name.args, "num_classes": num_classes}
    try:
        with torch.device("cpu"):
            model: object = builder(**given)
    except Exception as error:  # whatever anybody's code raises
        reason = " ".join(str(error).split()) or type(error).__name__
        rule = f"must be what {name.plain} takes, of which it says: {reason};"
        raise InputError.rule("model_args", rule, dict(name.args)) from error
    if not isinstance(model, nn.Module):
        rule = f"must be made by a function that returns an nn.Module, as {name.plain} does not"
        raise InputError.rule("model", rule, type(model).__name__)
    return model


Found = tuple[Callable[..., object], dict[str, Any]]


def _of_torchvision(name: ModelName, in_channels: int, image_size: ImageSize) -> Found:
    from torchvision import models

    names = models.list_models(module=models)
    if name.builder not in names:
        raise _unknown(name, names)
    given: dict[str, Any] = dict(_TORCHVISION.get(name.builder, {}))
    if name.builder.startswith("vit_"):
        if not isinstance(image_size, int):
            raise InputError.rule("image_size", f"must be a square for {name.plain}", image_size)
        given["image_size"] = image_size
    return models.get_model_builder(name.builder), given


def _of_timm(name: ModelName, in_channels: int, image_size: ImageSize) -> Found:
    import timm

    if not timm.is_model(name.builder):
        raise _unknown(name, timm.list_models())
    given: dict[str, Any] = {"in_chans": in_channels}
    known = timm.get_pretrained_cfg(name.builder, allow_unregistered=True)
    if known is not None and known.fixed_input_size:
        given["img_size"] = height_and_width(image_size)
    return functools.partial(timm.create_model, name.builder), given


def _of_module(name: ModelName, in_channels: int, image_size: ImageSize) -> Found:
    try:
        load_plugins([name.source], Path.cwd())
    except InputError as error:
        raise InputError(f"model: {str(error).removeprefix('plugins: ')}") from error
    module = importlib.import_module(name.source)
    builder = getattr(module, name.builder, None)
    if not callable(builder):
        callables = [each for each in vars(module) if callable(getattr(module, each))]
        raise _unknown(name, callables)
    asked = inspect.signature(builder).parameters
    known = {"in_channels": in_channels, "image_size": image_size}
    return builder, {key: value for key, value in known.items() if key in asked}


def _unknown(name: ModelName, names: Sequence[str]) -> InputError:
    close = difflib.get_close_matches(name.builder, names, n=5, cutoff=0.5)
    rule = f"must be one that {name.source} has" + (f", like {', '.join(close)}" if close else "")
    return InputError.rule("model", rule, name.plain)


@dataclass(frozen=True)
class _Planned:
    """Where a model is cut, and one without memory."""

    plan: CutPlan
    hollow: nn.Module


_planned: dict[tuple[str, int, int, ImageSize], _Planned] = {}


def _plan(name: ModelName, num_classes: int, in_channels: int, image_size: ImageSize) -> _Planned:
    """Find where a model is cut, once in a process for all that are called and sized alike."""
    key = (str(name), num_classes, in_channels, image_size)
    if key not in _planned:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            model = build_model(
                name, num_classes=num_classes, in_channels=in_channels, image_size=image_size
            )
            example = torch.zeros(2, in_channels, *height_and_width(image_size))
            plan = plan_cut(model, example, cast(Boundaries, name.boundaries))
        if plan.num_classes != num_classes:
            rule = f"must return logits of {num_classes} classes, as num_classes says"
            raise InputError.rule("model", rule, f"{name.plain}, which has {plan.num_classes}")
        _planned[key] = _Planned(plan, without_memory(model))
    return _planned[key]


def num_layers_of_model(name: str, image_size: ImageSize) -> int:
    """Return how many layers a model has, see `sedona_nni.models.build_backbone`.

    Raises:
        InputError: as there.
    """
    for (known, _, _, size), planned in _planned.items():
        if (known, size) == (name, image_size):
            return len(planned.plan.layer_names)
    return len(_plan(ModelName.parse(name), 10, 3, image_size).plan.layer_names)


def cut_backbone(
    name: str, context: BackboneContext, file: FileOfWeights | None = None
) -> Backbone:
    """Build a model and cut it, on torch's default device.

    On the ``meta`` device only its form is built.

    Args:
        name: See `ModelName.parse`.
        context: The activation is that of auxiliary networks.
        file: Weights for the model, by its own names, see `pretrained`.

    Raises:
        InputError: if there is no such model, it refuses its arguments, does not take the images,
            cannot be cut there, or the weights are not its.
        ModuleNotFoundError: if timm is not installed.
    """
    parsed = ModelName.parse(name)
    form = (context.num_classes, context.in_channels, context.image_size)
    planned = _plan(parsed, *form)
    device = torch.get_default_device()
    if device.type == "meta":
        model = copy.deepcopy(planned.hollow)
    else:
        model = build_model(
            parsed,
            num_classes=context.num_classes,
            in_channels=context.in_channels,
            image_size=context.image_size,
        ).to(device)
    fresh: tuple[str, ...] = ()
    if file is not None:
        unused = _AUXILIARY.get(parsed.plain, ())
        fresh = load_pretrained(model, file, lambda: _classifier(name, *form), unused)
    backbone = _backbone(str(parsed), planned.plan, model, context)
    backbone.fresh = fresh
    return backbone


@functools.lru_cache(maxsize=8)
def _classifier(
    name: str, num_classes: int, in_channels: int, image_size: ImageSize
) -> frozenset[str]:
    """Return the entries of a model's state dict whose shape follows from the number of classes."""
    parsed = ModelName.parse(name)
    with torch.random.fork_rng(devices=[]):
        of_more = build_model(
            parsed, num_classes=num_classes + 1, in_channels=in_channels, image_size=image_size
        )
    planned = _plan(parsed, num_classes, in_channels, image_size)
    return classifier_entries(shapes_of(planned.hollow), shapes_of(of_more))


def as_backbone(
    model: nn.Module,
    example: Tensor,
    boundaries: Boundaries = "units",
    *,
    name: str | None = None,
    activation: Activation = nn.ReLU,
) -> Backbone:
    """Cut any model into layers and a head; its modules and weights are used, not copied.

    Args:
        model: Maps images, (B, channels, H, W), to logits, (B, classes).
        example: A batch of images as it takes them; only shape and type matter.
        boundaries: Where layers end, see `cutting.cut_points.choose_places`.
        name: What decouplings of it call it, by default its class.
        activation: That of auxiliary networks.

    Raises:
        InputError: if the model does not take the example, returns no logits or cannot be
            followed, or if it cannot be cut there.

    Examples:
        >>> import torch, torchvision
        >>> from sedona_nni import Decoupling, as_backbone, build_decoupled
        >>> model = torchvision.models.mobilenet_v3_small(num_classes=10)
        >>> backbone = as_backbone(model, torch.zeros(2, 3, 64, 48), boundaries=4)
        >>> backbone.num_layers, backbone.boundaries[0].size
        (4, (4, 3))
        >>> two_blocks = Decoupling(backbone=backbone.name, cuts=[1], aux=["conv1"])
        >>> len(build_decoupled(backbone, two_blocks).blocks)
        2
    """
    plan = plan_cut(model, example, boundaries)
    context = BackboneContext(
        num_classes=plan.num_classes,
        in_channels=example.shape[1],
        image_size=(example.shape[2], example.shape[3]),
        activation=activation,
    )
    return _backbone(name or type(model).__name__, plan, model, context)


def _backbone(name: str, plan: CutPlan, model: nn.Module, context: BackboneContext) -> Backbone:
    cut = plan.cut(model)
    layers = [
        Layer(layer_name, layer, shape_of_features(shape, context.image_size))
        for layer_name, layer, shape in zip(cut.layer_names, cut.layers, cut.shapes, strict=True)
    ]
    return Backbone(name, layers, cut.head, context, original=model)
