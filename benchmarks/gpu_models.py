"""Models from elsewhere, cut, on a GPU: what must be right, and what a step takes.

As in `benchmarks.gpu_checks`; only torchvision is needed.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gpu_checks import blobs
from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.models import Backbone, as_backbone
from sedona_nni.models.placement import place
from sedona_nni.searches.sedona.hypergradient import hypergradient
from sedona_nni.searches.sedona.inner_step import InnerProblem, Sgd
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training.loop import train
from sedona_nni.training.settings import TrainSettings

__all__ = ["MODEL_CHECKS"]

_CLASSES = 4
_SIZE = 32


def _transformer() -> nn.Module:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(
        image_size=_SIZE, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32,
        dropout=0.1, num_classes=_CLASSES,
    )  # fmt: skip
    nn.init.normal_(model.heads.head.weight, std=0.1)  # torchvision begins with zeros
    return model


def _windows() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer(
        patch_size=[4, 4], embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4],
        stochastic_depth_prob=0.1, num_classes=_CLASSES,
    )  # fmt: skip


def _convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    blocks = [CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 2)]
    return ConvNeXt(blocks, stochastic_depth_prob=0.1, num_classes=_CLASSES)


def _mobilenet() -> nn.Module:
    from torchvision.models import mobilenet_v3_small

    model = mobilenet_v3_small(num_classes=_CLASSES, width_mult=0.5)
    assert isinstance(model.classifier[-1], nn.Linear)
    nn.init.normal_(model.classifier[-1].weight, std=0.3)  # from nearly zero little would come back
    return model


_MODELS: dict[str, Callable[[], nn.Module]] = {
    "transformer": _transformer,
    "windows": _windows,
    "convnext": _convnext,
    "mobilenet": _mobilenet,
}


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return _MODELS[name]()


def _backbone(model: nn.Module) -> Backbone:
    return as_backbone(model, torch.zeros(2, 3, _SIZE, _SIZE), name="mine")


def _step(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return logits, gradients and buffers of a step in training mode, by the model's names."""
    torch.manual_seed(1)  # of dropout and stochastic depth
    logits = network(images)
    F.cross_entropy(logits, labels).backward()
    found = dict(network.named_buffers())
    found |= {name: each.grad for name, each in network.named_parameters() if each.grad is not None}
    if isinstance(network, Backbone):
        found = {re.sub(r"^(layers\.\d+|head)\.", "", name): each for name, each in found.items()}
    return {"": logits.detach(), **found}


def cut_is_the_model(device: torch.device) -> dict[str, float]:
    """Without cuts it computes what the model does: logits, gradients and running statistics."""
    worst = 0.0
    images = torch.randn(4, 3, _SIZE, _SIZE, device=device)
    labels = torch.arange(4, device=device) % _CLASSES
    for name in _MODELS:
        plain = _model(name).to(device).train()
        cut = _backbone(copy.deepcopy(plain)).train()
        expected, found = _step(plain, images, labels), _step(cut, images, labels)
        assert expected.keys() == found.keys(), name
        for part, one in expected.items():
            norm = max(float(one.double().norm()), 1e-3)
            difference = float((found[part].double() - one.double()).norm()) / norm
            # GPUs add up atomically, in another order each time
            limit = 0 if device.type == "cpu" else 1e-3
            assert difference <= limit, f"{name}: {part} differs by {difference:.1e} of its norm"
            worst = max(worst, difference)
    return {"relative_difference": worst}


def cut_models_learn(device: torch.device) -> dict[str, float]:
    """Two blocks learn in float32 and in bf16, whatever crosses the cut."""
    splits = blobs(64, size=_SIZE, num_classes=_CLASSES)
    found = {}
    for name in _MODELS:
        for amp in ("no", "bf16"):
            backbone = _backbone(_model(name))
            middle = backbone.num_layers // 2 - 1
            cut = Decoupling(backbone="mine", cuts=[middle], aux=["conv1"])
            losses: list[float] = []
            settings = TrainSettings.model_validate(
                {"epochs": 8, "batch_size": 16, "lr": 0.002, "optimizer": "adam", "amp": amp}
            )
            train(
                build_decoupled(backbone, cut),
                splits,
                settings,
                device=device,
                report=lambda numbers, losses=losses: losses.append(numbers["train_loss"]),  # type: ignore[misc]
            )
            # A rise of one epoch is no failure: dropout goes on, and 64 images are few
            assert sum(losses[4:]) < sum(losses[:4]), f"{name}, {amp}: {losses}"
            found[f"{name} {amp}"] = losses[-1]
    return found


def hypergradient_of_models(device: torch.device) -> dict[str, float]:
    """In float64 it is that of the CPU, through attention, layer norms and whatever else."""
    found = {}
    for name in _MODELS:

        def at(where: torch.device | str, name: str = name) -> Tensor:
            model = _model(name)
            for part in model.modules():
                if hasattr(part, "p") and isinstance(part.p, float):
                    setattr(part, "p", 0.0)  # noqa: B010 - each device draws other masks
            network = place(RelaxedNetwork(_backbone(model), ["conv1", "linear"]).double(), where)
            problem = InnerProblem(network, Sgd(0.9, 1e-4), LabelSmoothing(0.1))

            def batch(seed: int) -> tuple[Tensor, Tensor]:
                generator = torch.Generator().manual_seed(seed)
                images = torch.randn(4, 3, _SIZE, _SIZE, generator=generator).double()
                return images.to(where), (torch.arange(4) % _CLASSES).to(where)

            result = hypergradient(
                problem, problem.state(), [batch(0), batch(1)], batch(2), lrs=[0.01] * 2, seed=0
            )
            return torch.cat([result.alpha, result.beta], dim=1).cpu()

        expected = at("cpu")
        error = float((at(device) - expected).norm() / expected.norm())
        # PyTorch's hardsigmoid goes backwards with a sixth of float32, 5e-9 off, as seen on CPUs;
        # that other kernels of a GPU do likewise is how 8e-6 came there, most likely
        bound = 1e-4 if name == "mobilenet" else 1e-8
        assert error < bound, f"{name}: the hypergradient is off by {error:.1e} of its norm"
        found[name] = error
    return found


MODEL_CHECKS: dict[str, Callable[[torch.device], dict[str, float]]] = {
    check.__name__: check for check in (cut_is_the_model, cut_models_learn, hypergradient_of_models)
}
