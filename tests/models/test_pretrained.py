"""`models.pretrained`: weights from a file, into models and backbones of all kinds."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from small_model import SmallModel
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sedona_nni import models
from sedona_nni.errors import InputError
from sedona_nni.models import (
    Backbone,
    BackboneContext,
    FeatureShape,
    Layer,
    build_backbone,
    register_backbone,
)
from sedona_nni.models.pretrained import FileOfWeights, is_pretrained, load_pretrained
from sedona_nni.registry import Registry

NAME = "small_model:build"
IMAGES = torch.rand(2, 3, 8, 8)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Return a model that has learned: its statistics are not the first ones."""
    torch.manual_seed(3)
    model = SmallModel(num_classes=5)
    with torch.no_grad():
        model(IMAGES)
    return model.eval()


def build(path: Path, num_classes: int = 5) -> Backbone:
    torch.manual_seed(4)
    return build_backbone(NAME, num_classes=num_classes, image_size=8, weights=path).eval()


def test_safetensors(model: nn.Module, tmp_path: Path) -> None:
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    backbone = build(tmp_path / "w.safetensors")
    assert torch.equal(backbone(IMAGES), model(IMAGES))
    assert backbone.fresh == ()
    assert all(is_pretrained(parameter) for parameter in backbone.parameters())


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda model: model.state_dict(),
        lambda model: {"epoch": 3, "state_dict": model.state_dict()},
        lambda model: {"model": model.state_dict(), "args": {"lr": 0.1}},
        lambda model: nn.DataParallel(model).state_dict(),
        lambda model: {"model": {}, "model_ema": AveragedModel(model).state_dict()},
    ],
    ids=["plain", "state_dict", "model", "parallel", "average"],
)
def test_what_torch_saved(
    model: nn.Module, tmp_path: Path, wrapped: Callable[[nn.Module], Any]
) -> None:
    torch.save(wrapped(model), tmp_path / "w.pth")
    assert torch.equal(build(tmp_path / "w.pth")(IMAGES), model(IMAGES))


@pytest.mark.parametrize("lacking", [False, True], ids=["of others", "none"])
def test_the_classifier_is_new_where_the_classes_are(
    model: nn.Module, tmp_path: Path, lacking: bool
) -> None:
    weights = model.state_dict()
    if lacking:
        del weights["classifier.weight"], weights["classifier.bias"]
    torch.save(weights, tmp_path / "w.pt")
    backbone = build(tmp_path / "w.pt", num_classes=7)
    assert backbone.fresh == ("classifier.weight", "classifier.bias")
    torch.manual_seed(4)
    drawn = SmallModel(num_classes=7)
    assert torch.equal(backbone.head.classifier.weight, drawn.classifier.weight)
    first = model.state_dict()["units.0.norm.running_mean"]
    assert torch.equal(backbone.state_dict()["layers.0.units.0.norm.running_mean"], first)
    new = [name for name, weight in backbone.named_parameters() if not is_pretrained(weight)]
    assert new == ["head.classifier.weight", "head.classifier.bias"]


def test_our_own_backbones(tmp_path: Path) -> None:
    torch.manual_seed(0)
    known = build_backbone("dgl-cnn4", num_classes=4, width_multiplier=0.1, image_size=8)
    save_file(known.state_dict(), tmp_path / "w.safetensors")
    for num_classes in (4, 6):
        backbone = build_backbone(
            "dgl-cnn4",
            num_classes=num_classes,
            width_multiplier=0.1,
            image_size=8,
            weights=tmp_path / "w.safetensors",
        )
        assert torch.equal(backbone.layers[0][0].weight, known.layers[0][0].weight)
        expected = () if num_classes == 4 else [*backbone.state_dict()][-2:]
        assert backbone.fresh == tuple(expected)


def test_modules_that_know_their_earlier_names(tmp_path: Path) -> None:
    """torchvision's own files of ViTs have names that its code has no more."""
    model = torchvision.models.VisionTransformer(16, 8, 1, 2, 8, 16)
    former = {
        name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): weight
        for name, weight in model.state_dict().items()
    }
    assert former.keys() != model.state_dict().keys()
    save_file(former, tmp_path / "w.safetensors")
    again = torchvision.models.VisionTransformer(16, 8, 1, 2, 8, 16)
    file = FileOfWeights(tmp_path / "w.safetensors")
    assert load_pretrained(again, file, frozenset) == ()
    assert all(torch.equal(w, again.state_dict()[name]) for name, w in model.state_dict().items())


def test_without_memory_it_is_checked_alone(model: nn.Module, tmp_path: Path) -> None:
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    with torch.device("meta"):
        backbone = build(tmp_path / "w.safetensors", num_classes=3)
    assert backbone.fresh == ("classifier.weight", "classifier.bias")
    assert all(parameter.is_meta for parameter in backbone.parameters())


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {key: w for key, w in weights.items() if key != name}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (without("units.0.norm.weight"), "must have units.0.norm.weight, as SmallModel does"),
        (
            lambda weights: {"classifier.bias": torch.ones(5)},
            "must have units.0.convolution.weight and 16 more, as",
        ),
        (
            lambda weights: {**weights, "neck.weight": torch.ones(2)},
            "must not have neck.weight, as SmallModel has not",
        ),
        (
            lambda weights: {**weights, "units.0.convolution.weight": torch.ones(6, 1, 3, 3)},
            r"units.0.convolution.weight must have the shape \(6, 3, 3, 3\), .*, but has \(6, 1, 3",
        ),
        (
            lambda weights: {**weights, "classifier.weight": torch.ones(4, 7)},
            r"classifier.weight must have the shape \(5, [0-9]+\) but for the number of classes",
        ),
        (
            lambda weights: {**weights, "classifier.bias": torch.ones(9)},
            r"classifier.bias must have the shape \(5,\) but for the number of classes, as",
        ),
        (
            lambda weights: {
                **weights,
                "units.0.norm.weight": torch.ones(6, dtype=torch.complex64),
            },
            "units.0.norm.weight must have real numbers, as in SmallModel, but has torch.complex64",
        ),
        (
            lambda weights: {**weights, "units.0.norm.weight": torch.ones(6, dtype=torch.int64)},
            "units.0.norm.weight must have real numbers",
        ),
    ],
)
def test_weights_of_something_else(
    model: nn.Module,
    tmp_path: Path,
    changed: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    message: str,
) -> None:
    path = tmp_path / "w.pt"
    torch.save(changed(model.state_dict()), path)
    for device in ("cpu", "meta"):
        with pytest.raises(InputError, match=f"^weights: {path}: {message}"), torch.device(device):
            build(path)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pt", None, "is not a file of tensors"),
        ("none.safetensors", None, "cannot be read"),
        ("damaged.safetensors", b"\xff" * 100, "cannot be read"),
        ("damaged.pth", b"PK\x03\x04" + bytes(50), "is not a file of tensors"),
        ("trap.pt", pickle.dumps({"classifier.weight": Trap()}), "is not a file of tensors alone"),
        ("weights.h5", b"", "must end with .safetensors, .pt or .pth"),
        ("list.pt", [torch.ones(2)], "must hold a state dict, but holds a list"),
        ("empty.pt", {}, "must hold a state dict, but holds an empty one"),
        ("epoch.pt", {"epoch": 3}, "must hold a state dict, but 'epoch' is an int"),
        ("nan.pt", {"a": torch.tensor([1, torch.nan])}, "a must have finite numbers"),
        ("meta.pt", {"a": torch.ones(2, device="meta")}, "a must have finite numbers"),
    ],
)
def test_files_that_hold_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=f"^weights: .*{message}") as caught:
        build(path)
    assert "\n" not in str(caught.value)
    assert not Path("sprung").exists()


def test_a_builder_may_bring_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def parts(context: BackboneContext) -> tuple[list[Layer], nn.Module]:
        layers = [nn.Conv2d(3, 3, 1) for _ in range(2)]
        for layer in layers:
            nn.init.ones_(layer.weight)
        head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, context.num_classes))
        return [Layer(f"l{i}", m, FeatureShape(3, 4)) for i, m in enumerate(layers)], head

    monkeypatch.setattr(models, "BACKBONES", Registry("backbone"))
    for name, draws in (("drawn", True), ("kept", False)):
        register_backbone(name, num_layers=2, smallest_image=4, draws_weights=draws)(parts)
    kept, drawn = (build_backbone(n, num_classes=2, image_size=4) for n in ("kept", "drawn"))
    assert all((layer.weight == 1).all() for layer in kept.layers)
    assert not any((layer.weight == 1).any() for layer in drawn.layers)
