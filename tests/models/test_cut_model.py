"""A cut model is the model: its modules, its names, its numbers."""

from __future__ import annotations

import copy
import doctest
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cut_steps import assert_cut_is_the_model, one_step
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torchvision import models
from torchvision.models.resnet import BasicBlock

from sedona_nni.decouplings.cost import peak_memory_mib
from sedona_nni.models.cutting import cut_model as module
from sedona_nni.models.cutting.cut_model import CutModel, cut_model

IMAGES = torch.rand(3, 3, 16, 12, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A residual block of many kinds of state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = parametrizations.weight_norm(nn.Conv2d(width, width, 3, padding=1))
        self.out = nn.Conv2d(width, width, 1)
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        keep = torch.rand(len(x), 1, 1, 1) < 0.7 if self.training else 1
        return x + keep * self.scale * self.out(self.conv(self.norm(x).relu_()))


class Net(nn.Module):
    """Has weights of its own, a buffer that is saved and one that is not, and code between."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.position = nn.Parameter(torch.rand(4, 16, 12))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("mask", torch.ones(1, 12), persistent=False)
        self.stages = nn.Sequential(*(Block(4) for _ in range(3)))
        self.last = nn.Linear(4, 5)
        self.unused = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.output(images) + self.position * self.mask
        batch, *rest = x.shape
        x = F.dropout(self.stages(x), 0.2, training=self.training).view(batch, *rest)
        x = F.relu(x * self.mask + self.steps, inplace=True)
        return self.last(x.flatten(2).mean(2))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_the_examples() -> None:
    assert doctest.testmod(module).attempted > 5
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("boundaries", ["all", "units", 1, 2, ["stages.0"]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cut_it_computes_what_it_computed(net: Net, boundaries: Any, dtype: torch.dtype) -> None:
    cut = assert_cut_is_the_model(net.to(dtype), IMAGES.to(dtype), boundaries)
    sizes = {"all": 5, "units": 3, 1: 1, 2: 2}
    assert len(cut.layers) == (sizes[boundaries] if isinstance(boundaries, str | int) else 2)


def test_any_batch_size(net: Net) -> None:
    cut = cut_model(net.eval(), IMAGES, "all")
    for size in (1, 2, 5):
        images = torch.rand(size, 3, 16, 12)
        assert torch.equal(cut(images), net(images))


def test_what_crosses_has_the_shapes_named(net: Net) -> None:
    cut = cut_model(net, IMAGES, "all")
    features = IMAGES
    for layer, shape in zip(cut.layers, cut.shapes, strict=True):
        features = layer(features)
        assert features.shape == (3, *shape)
    assert sum(cut.shares) < 1
    assert min(cut.shares) >= 0


def test_modules_between_cuts_are_the_models_own_and_run_their_hooks(net: Net) -> None:
    cut = cut_model(net, IMAGES, ["stages.0"])
    assert cut.layer_names == ["stages.0", "stages.2"]
    assert [name for name, _ in cut.layers[0].named_children()] == ["output", "stages"]
    own = {*map(id, net.modules())}
    assert id(cut.layers[1].get_submodule("stages.1")) in own
    called = []
    net.stages[1].register_forward_hook(lambda *_: called.append("stages.1"))
    net.last.register_forward_hook(lambda *_: called.append("last"))
    cut(IMAGES)
    assert called == ["stages.1", "last"]


def test_a_part_that_is_frozen_stays_so(net: Net) -> None:
    cut = cut_model(net.train(), IMAGES, "units")
    net.stages[1].norm.eval()
    before = net.stages[1].norm.running_mean.clone()
    cut(IMAGES)
    assert torch.equal(net.stages[1].norm.running_mean, before)
    assert not torch.equal(net.stages[0].norm.running_mean, torch.zeros(4))


def test_names_are_the_models_behind_a_prefix(net: Net) -> None:
    cut = cut_model(net, IMAGES, "all")
    names = cut.own_names
    assert names.keys() == cut.state_dict().keys()
    assert names["layers.1.position"] == "position"
    assert {*names.values()} == {n for n in net.state_dict() if not n.startswith("unused")}
    assert all(name.endswith(f".{own}") for name, own in names.items())
    assert sum(p.numel() for p in cut.parameters()) == sum(
        p.numel() for n, p in net.named_parameters() if not n.startswith("unused")
    )


def test_what_was_trained_loads_into_the_plain_model(net: Net) -> None:
    cut = cut_model(net, IMAGES, "all").double()
    optimizer = torch.optim.SGD(cut.parameters(), lr=0.1)
    F.cross_entropy(cut(IMAGES.double()), torch.tensor([0, 1, 2])).backward()
    optimizer.step()
    plain = Net().double()
    plain.load_state_dict(cut.plain_state_dict())
    assert torch.equal(plain.eval()(IMAGES.double()), cut.eval()(IMAGES.double()))
    assert not torch.equal(plain.position, Net().double().position)


def copied(cut: CutModel, how: str) -> CutModel:
    if how == "deepcopy":
        return copy.deepcopy(cut)
    return pickle.loads(pickle.dumps(cut))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_is_independent_and_complete(how: str) -> None:
    torch.manual_seed(0)
    model = models.shufflenet_v2_x0_5(num_classes=4)
    images = torch.rand(2, 3, 32, 32)
    cut = cut_model(model, images, "all")
    other = copied(cut, how)
    assert other.state_dict().keys() == cut.state_dict().keys()
    assert not {*map(id, cut.modules())} & {*map(id, other.modules())}
    expected = cut.eval()(images)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(other.eval()(images), expected)
    assert other.plain_state_dict().keys() == model.state_dict().keys()
    found = other.plain_state_dict()["conv1.0.weight"]
    assert found is not None
    assert found.any()


def test_one_layer_alone_is_copied_with_its_own_only() -> None:
    cut = cut_model(models.squeezenet1_1(num_classes=4), torch.zeros(1, 3, 32, 32), "units")
    layer = copy.deepcopy(cut.layers[1])
    assert {*layer.state_dict()} == {*cut.layers[1].state_dict()}
    assert len(pickle.dumps(layer)) < len(pickle.dumps(cut)) / 10


def test_functional_call_replaces_weights(net: Net) -> None:
    cut = cut_model(net.eval(), IMAGES, "all")
    names = cut.own_names
    changed = {name: 2 * value for name, value in net.state_dict().items()}
    expected = functional_call(net, changed, (IMAGES,))
    found = functional_call(cut, {name: changed[own] for name, own in names.items()}, (IMAGES,))
    assert torch.equal(found, expected)
    assert not torch.equal(found, cut(IMAGES))


def test_nothing_is_written_into_what_crosses() -> None:
    """A layer that begins behind an activation in place would change what its teacher reads."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True),
        nn.Conv2d(4, 4, 3), nn.ReLU(True), nn.Flatten(), nn.Linear(4 * 12 * 8, 3),
    )  # fmt: skip
    cut = cut_model(model, IMAGES, "all")
    features = IMAGES
    for layer in [*cut.layers, cut.head]:
        before = features.clone()
        above = layer(features)
        assert torch.equal(features, before)
        features = above.detach()
    assert cut.layer_names[0] != "1"


def test_memory_of_results_is_freed_when_nobody_needs_them() -> None:
    given: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    class Watching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            given.append(weakref.ref(x))
            alive.append(sum(each() is not None for each in given))
            return x + 1

    watching = [Watching() for _ in range(6)]
    model = nn.Sequential(nn.Conv2d(3, 3, 1), *watching, nn.Flatten(), nn.Linear(576, 2))
    cut = cut_model(model, IMAGES, 1)
    given.clear()
    alive.clear()
    with torch.no_grad():
        cut(IMAGES)
    assert alive == [1] * 6


@pytest.mark.parametrize("name", ["convnext", "vit", "resnet"])
@pytest.mark.parametrize("training", [True, False])
def test_a_step_needs_no_more_memory_than_the_models(name: str, training: bool) -> None:
    build: dict[str, Callable[[], nn.Module]] = {
        "convnext": lambda: models.ConvNeXt(
            [models.convnext.CNBlockConfig(16, 32, 3), models.convnext.CNBlockConfig(32, None, 3)],
            num_classes=10,
        ),
        "vit": lambda: models.VisionTransformer(
            image_size=32, patch_size=4, num_layers=4, num_heads=2, hidden_dim=16, mlp_dim=32,
            num_classes=10,
        ),
        "resnet": lambda: models.ResNet(BasicBlock, [2, 2, 2, 2], num_classes=10),
    }  # fmt: skip
    model = build[name]()
    images = torch.rand(4, 3, 32, 32)

    def peak(network: nn.Module) -> float:
        def step() -> None:
            with torch.set_grad_enabled(training):
                logits = network(images)
                if training:
                    logits.sum().backward()

        step()
        model.zero_grad()
        return peak_memory_mib(step, torch.device("cpu"))

    plain = max(peak(model), peak(model))  # of so short a step the profiler may miss all
    for boundaries in ("units", "all", 1):
        assert peak(cut_model(model, images, boundaries)) <= 1.01 * plain


def test_without_memory() -> None:
    with torch.device("meta"):
        model = models.convnext_tiny(num_classes=10)
    cut = cut_model(model, torch.zeros(1, 3, 32, 32), "units")
    assert cut(torch.zeros(4, 3, 32, 32, device="meta")).shape == (4, 10)


def test_greedy_gradients_stop_at_a_cut(net: Net) -> None:
    cut = cut_model(net, IMAGES, "units")
    features = cut.layers[0](IMAGES).detach()
    for layer in (*cut.layers[1:], cut.head):
        features = layer(features)
    features.sum().backward()
    below = {id(p) for p in cut.layers[0].parameters()}
    assert all((p.grad is None) == (id(p) in below) for p in cut.parameters())


def test_a_step_that_differs_would_be_seen(net: Net) -> None:
    cut = cut_model(net, IMAGES, "units")
    one = one_step(net, net, IMAGES)
    net.stages[1].scale.data += 1e-6
    other = one_step(cut, net, IMAGES)
    assert not torch.equal(one["logits"], other["logits"])
