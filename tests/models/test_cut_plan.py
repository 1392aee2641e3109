"""A plan is made once, of names only, and cuts each model that is built alike."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from cut_steps import one_step
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torchvision import models
from torchvision.models.resnet import BasicBlock

from sedona_nni.errors import InputError
from sedona_nni.models.cutting.cut_model import cut_model, plan_cut

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SMALL: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: models.ResNet(BasicBlock, [1, 2, 1, 1], num_classes=4),
    "swin": lambda: models.SwinTransformer(
        patch_size=[2, 2], embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4],
        stochastic_depth_prob=0.3, num_classes=4,
    ),
    "vit": lambda: models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32,
        dropout=0.1, num_classes=4,
    ),
}  # fmt: skip


class Net(nn.Module):
    """Two convolutions with code between them, and a classifier."""

    def __init__(self, code: Callable[[Net, Tensor], Tensor] = lambda net, x: x.relu()) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.code = code
        self.fc = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.b(self.code(self, self.a(images))).mean((2, 3)))


@pytest.mark.parametrize("name", SMALL)
def test_it_is_the_same_for_each_mode_and_device_and_when_stored(name: str) -> None:
    model = SMALL[name]()
    plan = plan_cut(model.train(), IMAGES, "all")
    assert plan == plan_cut(model.eval(), IMAGES[:1], "all")
    next(model.children()).train()
    model.to("meta")
    assert plan == plan_cut(model, IMAGES, "all")
    assert plan == pickle.loads(pickle.dumps(plan))
    assert plan != plan_cut(model, IMAGES, 2)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("training", [True, False])
def test_one_made_without_memory_cuts_the_real_model(name: str, training: bool) -> None:
    with torch.device("meta"):
        plan = plan_cut(SMALL[name](), IMAGES, "all")
    torch.manual_seed(1)
    model = SMALL[name]().double().train(training)
    other = copy.deepcopy(model)
    expected = one_step(model, model, IMAGES.double())
    found = one_step(plan.cut(other), other, IMAGES.double())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


class Branching(nn.Module):
    """Whose shapes are found by its own code, with values."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)[:, :, 1:] if x.sum() > 0 else -self.norm(x)[:, :, 1:]


def test_values_that_a_module_needs_are_made_if_there_are_none() -> None:
    net = Net(lambda net, x: net.part(x))
    net.part = Branching()
    plan = plan_cut(net, IMAGES, "all")
    assert plan.layer_names == ("a", "part", "b")
    assert plan.shapes[1] == (4, 29, 30)
    assert plan == plan_cut(net.to("meta"), IMAGES, "all")


def test_nothing_of_the_model_is_kept() -> None:
    model = SMALL["resnet"]()
    alive = [weakref.ref(each) for each in (*model.modules(), *model.parameters())]
    plan = plan_cut(model, IMAGES, "all")
    del model
    gc.collect()
    assert not [each for each in alive if each() is not None]
    assert plan.layer_names


def test_the_cut_model_has_what_was_planned() -> None:
    plan = plan_cut(Net(), IMAGES, "all")
    cut = plan.cut(Net())
    assert (cut.layer_names, cut.shapes) == (["a", "relu", "b"], [(4, 30, 30)] * 2 + [(4, 28, 28)])
    assert tuple(cut.shares) == plan.shares
    assert sum(plan.shares) == pytest.approx(1, abs=0.001)
    assert plan.apart == ("",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda net: setattr(net, "fc", nn.Linear(4, 6)),
            "model: must be built like the one of the plan, with (5, 4) at 'fc.weight', but got "
            "'(6, 4)'",
        ),
        (
            lambda net: setattr(net, "c", nn.ReLU()),
            "model: must be built like the one of the plan, with nothing at 'c', but got "
            "'torch.nn.modules.activation.ReLU'",
        ),
        (
            lambda net: delattr(net, "b"),
            "model: must be built like the one of the plan, with "
            "torch.nn.modules.conv.Conv2d at 'b', but got 'nothing'",
        ),
    ],
)
def test_a_model_that_is_built_otherwise_is_refused(
    change: Callable[[nn.Module], None], message: str
) -> None:
    plan = plan_cut(Net(), IMAGES, 1)
    net = Net()
    change(net)
    with pytest.raises(InputError) as caught:
        plan.cut(net)
    assert str(caught.value) == message
    with pytest.raises(InputError, match=r"Net at its top, but got 'torch.*Sequential'$"):
        plan.cut(nn.Sequential())


def test_a_weights_device_and_type_are_those_of_the_model_that_is_cut() -> None:
    def code(net: Net, x: Tensor) -> Tensor:
        ones = torch.ones(4, 1, 1, device=next(net.fc.parameters()).device)
        return (x * ones).to(next(net.b.parameters()).dtype)

    plan = plan_cut(Net(code), IMAGES, "all")
    assert plan.layer_names == ("a", "mul", "b")  # not "to", where b's weight has been asked
    hollow = plan.cut(Net(code).to("meta").double())
    logits = hollow(IMAGES.to("meta").double())
    assert (logits.device.type, logits.dtype) == ("meta", torch.float64)
    with torch.device("meta"):
        plan = plan_cut(Net(code), IMAGES, "all")
    assert plan.cut(Net(code))(IMAGES).device.type == "cpu"


def test_hooks_that_would_not_run_are_refused() -> None:
    plan = plan_cut(SMALL["resnet"](), IMAGES, ["layer2.0"])
    assert plan.apart == ("", "layer2")
    registers: list[Callable[[nn.Module], object]] = [
        lambda module: module.register_forward_hook(lambda *_: None),
        lambda module: module.register_forward_pre_hook(lambda *_: None),
        lambda module: module.register_full_backward_hook(lambda *_: None),
        lambda module: module.register_full_backward_pre_hook(lambda *_: None),
    ]
    rule = "model: must have no hooks on modules that a cut goes through, they would not run"
    for register, path in itertools.product(registers, plan.apart):
        net = SMALL["resnet"]()
        register(net.layer2[0].conv1)  # whole, as the next
        register(net.layer3)
        plan.cut(net)
        register(net.get_submodule(path))
        with pytest.raises(InputError) as caught:
            plan.cut(net)
        assert str(caught.value) == f"{rule}, but got {path or 'ResNet'!r}"


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_weights_that_are_computed() -> None:
    """Of the model's own code, between modules, and within one."""

    def code(net: Net, x: Tensor) -> Tensor:
        return x * net.scale

    net = Net(code)
    net.scale = nn.Parameter(torch.rand(4, 1, 1))
    parametrize.register_parametrization(net, "scale", Doubled())
    parametrizations.spectral_norm(net.b)
    plan = plan_cut(net, IMAGES, "all")
    assert plan.layer_names == ("a", "mul", "b")
    for training in (True, False):
        other = copy.deepcopy(net).train(training)
        found = one_step(plan.cut(other), other, IMAGES)
        other = copy.deepcopy(net).train(training)
        expected = one_step(other, other, IMAGES)
        assert {"parametrizations.scale.original", "fc.bias"} < found.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_the_text_of_a_piece_tells_what_it_does() -> None:
    def text(code: Callable[[Net, Tensor], Tensor]) -> str:
        return repr(cut_model(Net(code), IMAGES, ["a"]).layers[1])

    assert text(lambda net, x: torch.nn.functional.leaky_relu(x, 0.2)) == (
        "Piece(\n"
        "  x1 = torch.nn.functional.leaky_relu(x0, negative_slope=0.2, inplace=False)\n"
        "  x2 = b(x1)\n"
        "  return x2\n"
        "  (b): Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1))\n"
        ")"
    )
    texts = [
        text(lambda net, x: x.flatten(1).unflatten(1, x.shape[1:])),
        text(lambda net, x: x.flatten(2).unflatten(2, x.shape[2:])),
        text(lambda net, x: x.relu()),
        text(lambda net, x: x.relu().relu()),
        text(lambda net, x: x[:, [1, 0, 2, 3]]),
        text(lambda net, x: x[:, [0, 1, 3, 2]]),
        text(lambda net, x: x * torch.ones(4, 1, 1)),
        text(lambda net, x: x * torch.zeros(4, 1, 1)),
        text(lambda net, x: x * torch.ones(4, 1, 1, device=x.device)),
        text(lambda net, x: net.b.bias[0] * x),
        text(lambda net, x: net.b.weight[0, 0, 0, 0] * x),
    ]
    assert len({*texts}) == len(texts)


def test_copies_with_other_tensors() -> None:
    """As costs are counted: copied with a memo that has hollow weights."""
    cut = cut_model(SMALL["vit"](), IMAGES, "units")
    for piece in (*cut.layers, cut.head):
        memo: dict[int, object] = {
            id(weight): nn.Parameter(weight.detach().to("meta"), weight.requires_grad)
            for weight in piece.parameters()
        }
        hollow = copy.deepcopy(piece, memo)
        assert {weight.device.type for weight in hollow.parameters()} == {"meta"}
        assert {weight.device.type for weight in piece.parameters()} == {"cpu"}
        assert repr(hollow) == repr(piece)
    hollow = copy.deepcopy(cut.layers[1], {id(p): p.to("meta") for p in cut.layers[1].parameters()})
    assert hollow(torch.zeros(2, 17, 16, device="meta")).shape == (2, 17, 16)
    assert torch.equal(
        pickle.loads(pickle.dumps(cut.layers[1].eval()))(torch.ones(2, 17, 16)),
        cut.layers[1](torch.ones(2, 17, 16)),
    )
