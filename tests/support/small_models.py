"""Small models of torchvision's families by name, ``small_models:vit``, as users have their own.

What is random in them, dropout and stochastic depth, is in.
"""

from __future__ import annotations

from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import Bottleneck

__all__ = ["activation_first", "convnext", "densenet", "resnet", "swin", "vit"]


def vit(num_classes: int, image_size: int, width: int = 8, dropout: float = 0.1) -> nn.Module:
    """Four encoder layers; tokens cross, with one of the class."""
    return models.VisionTransformer(
        image_size=image_size,
        patch_size=4,
        num_layers=4,
        num_heads=2,
        hidden_dim=width,
        mlp_dim=2 * width,
        dropout=dropout,
        num_classes=num_classes,
    )


def swin(num_classes: int, width: int = 12) -> nn.Module:
    """Two stages of two blocks; maps cross whose channels come last."""
    return models.SwinTransformer(
        patch_size=[2, 2],
        embed_dim=width,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=[4, 4],
        stochastic_depth_prob=0.2,
        num_classes=num_classes,
    )


def convnext(num_classes: int, width: int = 8) -> nn.Module:
    """Two stages of two blocks with stochastic depth."""
    stages = [CNBlockConfig(width, 2 * width, 2), CNBlockConfig(2 * width, None, 2)]
    return models.ConvNeXt(stages, stochastic_depth_prob=0.2, num_classes=num_classes)


def resnet(num_classes: int, width: int = 4) -> nn.Module:
    """Bottlenecks as of a ResNet-50, one in each stage."""
    return models.ResNet(Bottleneck, [1, 1, 1, 1], num_classes, width_per_group=width)


def densenet(num_classes: int, width: int = 4) -> nn.Module:
    """Three dense blocks; activations work in place."""
    return models.DenseNet(width, (2, 2, 2), 2 * width, num_classes=num_classes)


def activation_first(num_classes: int, width: int = 8, in_place: bool = True) -> nn.Module:
    """All units but the first begin with their activation, which works in place."""

    def unit() -> nn.Module:
        convolution = nn.Conv2d(width, width, 3, padding=1)
        return nn.Sequential(nn.ReLU(in_place), convolution, nn.BatchNorm2d(width))

    first = nn.Conv2d(3, width, 3, padding=1)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
    return nn.Sequential(first, unit(), unit(), unit(), head)
