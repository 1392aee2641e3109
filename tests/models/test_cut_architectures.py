"""Every family of torchvision's and timm's classifiers: cut, it computes what it computed."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cut_steps import assert_cut_is_the_model
from torch import nn
from torchvision import models
from torchvision.models.swin_transformer import SwinTransformerBlockV2

from sedona_nni.models.cutting.cut_points import find_places
from sedona_nni.models.cutting.tracing import trace

# Small ones of families that begin large
SMALL: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "vit": (
        32,
        lambda: models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32,
            dropout=0.1, attention_dropout=0.1, num_classes=10,
        ),
    ),
    "swin": (
        32,
        lambda: models.SwinTransformer(
            patch_size=[2, 2], embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4],
            stochastic_depth_prob=0.3, num_classes=10,
        ),
    ),
    "swin-v2": (
        32,
        lambda: models.SwinTransformer(
            patch_size=[2, 2], embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4],
            stochastic_depth_prob=0.3, num_classes=10, block=SwinTransformerBlockV2,
            downsample_layer=models.swin_transformer.PatchMergingV2,
        ),
    ),
    "densenet": (
        32,
        lambda: models.DenseNet(
            growth_rate=8, block_config=(2, 3, 2, 2), num_init_features=8, drop_rate=0.2,
            num_classes=10,
        ),
    ),
    "convnext": (
        32,
        lambda: models.ConvNeXt(
            [
                models.convnext.CNBlockConfig(8, 16, 2),
                models.convnext.CNBlockConfig(16, 32, 2),
                models.convnext.CNBlockConfig(32, None, 1),
            ],
            stochastic_depth_prob=0.3,
            num_classes=10,
        ),
    ),
}  # fmt: skip
FAST = [*SMALL, "resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"]

# Image size: the smallest that the architecture takes or that leaves a map
LONG = {
    **dict.fromkeys(["alexnet", "vgg11", "vgg11_bn", "vgg13_bn", "vgg16", "vgg19_bn"], 64),
    **dict.fromkeys(["resnet34", "resnet50", "resnet101", "resnet152"], 64),
    **dict.fromkeys(["resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2"], 64),
    **dict.fromkeys(["densenet121", "densenet169", "densenet201"], 64),
    **dict.fromkeys(["googlenet"], 64),
    **dict.fromkeys(["inception_v3"], 96),
    **dict.fromkeys(["mobilenet_v2", "mobilenet_v3_large", "mnasnet0_5", "mnasnet1_3"], 64),
    **dict.fromkeys(["shufflenet_v2_x1_0", "shufflenet_v2_x2_0", "squeezenet1_0"], 64),
    **dict.fromkeys(["efficientnet_b0", "efficientnet_b1", "efficientnet_b4"], 64),
    **dict.fromkeys(["efficientnet_v2_s", "efficientnet_v2_m"], 64),
    **dict.fromkeys(["regnet_x_400mf", "regnet_x_1_6gf", "regnet_x_3_2gf"], 64),
    **dict.fromkeys(["regnet_y_400mf", "regnet_y_800mf", "regnet_y_3_2gf"], 64),
    **dict.fromkeys(["convnext_tiny", "convnext_small", "convnext_base"], 64),
    **dict.fromkeys(["swin_t", "swin_s", "swin_v2_t", "swin_v2_s"], 64),
    **dict.fromkeys(["vit_b_16", "vit_b_32"], 64),
    **dict.fromkeys(["maxvit_t"], 224),
}

# With arguments of timm's, ``size`` is that of the images. Without CrossViT, whose two branches
# meet in the logits: it has no place that one tensor crosses
TIMM: dict[str, dict[str, Any]] = {
    "resnet18": {"drop_rate": 0.2, "drop_path_rate": 0.2},
    "convnext_atto": {"drop_path_rate": 0.2},
    "vit_tiny_patch16_224": {"img_size": 64, "drop_path_rate": 0.2, "drop_rate": 0.1},
    "deit_tiny_distilled_patch16_224": {"img_size": 64},
    "efficientnet_b0": {"drop_rate": 0.2, "drop_path_rate": 0.2},
    "mobilenetv3_small_050": {},
    "mixer_s16_224": {"img_size": 64},
    "regnety_002": {},
    "swin_tiny_patch4_window7_224": {"size": 224},
    "swinv2_cr_tiny_224": {"size": 224},
    "poolformer_s12": {},
    "densenet121": {},
    "dla34": {},
    "dpn48b": {},
    "eca_nfnet_l0": {},
    "edgenext_xx_small": {},
    "fastvit_t8": {},
    "ghostnet_050": {},
    "mobilevit_xxs": {},
    "mobileone_s0": {},
    "nf_resnet50": {},
    "pit_ti_224": {"size": 224},
    "pvt_v2_b0": {},
    "res2net50_26w_4s": {},
    "resmlp_12_224": {"size": 224},
    "resnest14d": {},
    "rexnet_100": {},
    "repvgg_a0": {},
    "skresnet18": {},
    "xcit_nano_12_p16_224": {"size": 224},
    "coatnet_nano_rw_224": {"size": 224},
    "vovnet39a": {},
    "gmlp_s16_224": {"size": 224},
    "cait_xxs24_224": {"size": 224},
    "lcnet_050": {},
    "davit_tiny": {"size": 224},
    "starnet_s1": {},
    "tiny_vit_5m_224": {"size": 224},
    "hrnet_w18_small": {},
    "mvitv2_tiny": {"size": 224},
    "convmixer_768_32": {"size": 56},
    "levit_128s": {"size": 224},
    "maxvit_tiny_tf_224": {"size": 224},
    "efficientformer_l1": {"size": 224},
    "efficientformerv2_s0": {"size": 224},
    "efficientvit_b0": {},
    "efficientvit_m0": {"size": 224},
    "repvit_m0_9": {},
    "repghostnet_050": {},
    "focalnet_tiny_srf": {"size": 224},
    "nest_tiny": {"size": 224},
}


def torchvisions(name: str) -> tuple[nn.Module, int]:
    """Return a model and its image size."""
    if name in SMALL:
        size, build = SMALL[name]
        return build(), size
    more: dict[str, Any] = {}
    if name.startswith("vit"):
        more = {"image_size": 64}
    elif name in ("googlenet", "inception_v3"):
        more = {"aux_logits": False, "init_weights": False}
    return models.get_model(name, num_classes=10, **more), LONG.get(name, 32)


def check(model: nn.Module, size: int) -> None:
    started = time.process_time()
    places = find_places(trace(model, torch.zeros(1, 3, size, size)))
    assert time.process_time() - started < 10
    assert sum(place.unit for place in places) >= 3
    images = torch.rand(2, 3, size, size)
    for boundaries in ("all", "units", 1):
        cut = assert_cut_is_the_model(model, images, boundaries)
        assert cut.plain_state_dict().keys() == model.state_dict().keys()
    assert_cut_is_the_model(model.double(), images.double(), "all")


@pytest.mark.parametrize("name", FAST)
def test_architectures(name: str) -> None:
    check(*torchvisions(name))


@pytest.mark.nightly
@pytest.mark.parametrize("name", LONG)
def test_all_of_torchvision(name: str) -> None:
    check(*torchvisions(name))


@pytest.mark.nightly
@pytest.mark.parametrize("name", TIMM)
def test_families_of_timm(name: str) -> None:
    timm = importlib.import_module("timm")  # seconds, which only this list needs
    arguments = dict(TIMM[name])
    size = arguments.pop("size", 64)
    check(timm.create_model(name, num_classes=10, **arguments), size)
