"""Tiny models of torchvision's and timm's families, cut into layers, as backbones of a search."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import FusedMBConvConfig, MBConvConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig

from sedona_nni.models import Backbone
from sedona_nni.models.sources import as_backbone

NUM_CLASSES = 3


def _convnext() -> nn.Module:
    """Layer norm over channels, GELU, depthwise convolutions, layer scale, stochastic depth."""
    blocks = [CNBlockConfig(4, 6, 1), CNBlockConfig(6, 8, 1), CNBlockConfig(8, None, 1)]
    return models.ConvNeXt(
        blocks, stochastic_depth_prob=0.3, layer_scale=0.5, num_classes=NUM_CLASSES
    )


def _vit() -> nn.Module:
    """Tokens with a class token, multi-head attention, dropout in it and after it."""
    model = models.VisionTransformer(
        image_size=8,
        patch_size=4,
        num_layers=3,
        num_heads=2,
        hidden_dim=4,
        mlp_dim=6,
        dropout=0.1,
        attention_dropout=0.1,
        num_classes=NUM_CLASSES,
    )
    nn.init.normal_(model.heads[0].weight)  # it begins with zeros, behind which nothing is learned
    return model


def _swin() -> nn.Module:
    """Channels-last maps, windows that are rolled and padded, hand-written attention."""
    return models.SwinTransformer(
        patch_size=[2, 2],
        embed_dim=4,
        depths=[2, 1],
        num_heads=[2, 2],
        window_size=[3, 3],
        mlp_ratio=2.0,
        dropout=0.1,
        attention_dropout=0.1,
        stochastic_depth_prob=0.2,
        num_classes=NUM_CLASSES,
    )


def _mobilenet() -> nn.Module:
    """Squeeze-excitation, hardswish and hardsigmoid in place, depthwise convolutions."""
    block = partial(InvertedResidualConfig, width_mult=0.5)
    blocks = [
        block(8, 3, 16, 8, True, "HS", 2, 1),
        block(8, 5, 16, 8, True, "HS", 1, 1),
        block(8, 3, 16, 16, False, "RE", 2, 1),
    ]
    model = models.MobileNetV3(blocks, 8, num_classes=NUM_CLASSES)
    nn.init.normal_(model.classifier[-1].weight)  # it begins small, and with it all gradients
    return model


def _efficientnet() -> nn.Module:
    """Squeeze-excitation and SiLU in place, stochastic depth, dropout in place."""
    blocks = [
        FusedMBConvConfig(1, 3, 1, 8, 8, 1),
        MBConvConfig(2, 3, 2, 8, 8, 2, width_mult=0.5),
        MBConvConfig(2, 3, 1, 8, 8, 1),
    ]
    return models.EfficientNet(
        blocks, dropout=0.2, stochastic_depth_prob=0.4, num_classes=NUM_CLASSES, last_channel=8
    )


def _densenet() -> nn.Module:
    """Concatenation, ReLU in place, functional dropout, a max-pool."""
    return models.DenseNet(
        growth_rate=2,
        block_config=(2, 2, 1),
        num_init_features=4,
        bn_size=2,
        drop_rate=0.1,
        num_classes=NUM_CLASSES,
    )


def _vit_of_timm() -> nn.Module:
    """Layer scale, norms of queries and keys, stochastic depth per sample."""
    timm = importlib.import_module("timm")  # seconds, which only this needs
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=8,
        patch_size=4,
        embed_dim=4,
        depth=3,
        num_heads=2,
        mlp_ratio=2,
        init_values=0.5,
        qk_norm=True,
        drop_path_rate=0.3,
        proj_drop_rate=0.1,
        num_classes=NUM_CLASSES,
    )
    return model


TINY: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "convnext": (_convnext, 16),
    "vit": (_vit, 8),
    "swin": (_swin, 16),
    "mobilenet": (_mobilenet, 16),
    "efficientnet": (_efficientnet, 16),
    "densenet": (_densenet, 32),
    "vit of timm": (_vit_of_timm, 8),
}


def tiny(name: str) -> Backbone:
    """The tiny model of a family in three layers, with weights from torch's seed."""
    build, size = TINY[name]
    backbone = as_backbone(build(), torch.zeros(2, 3, size, size), 3, activation=nn.Softplus)
    backbone.width_multiplier = 0.01  # that of auxiliary networks
    return backbone
