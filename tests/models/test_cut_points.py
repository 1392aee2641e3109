"""Where models can be cut, what their units are, and which places are chosen."""

from __future__ import annotations

import doctest
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from sedona_nni.errors import InputError
from sedona_nni.models.cutting import cut_points
from sedona_nni.models.cutting.cut_points import Boundaries, Place, choose_places, find_places
from sedona_nni.models.cutting.tracing import trace


class Net(nn.Module):
    """Four convolutions and a classifier, in any order."""

    def __init__(self, code: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 1) for _ in range(4))
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(3, 2)
        self.code = code

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.code(self, images).mean((2, 3)))


def places_of(model: nn.Module, size: int = 64) -> list[Place]:
    return find_places(trace(model, torch.zeros(1, 3, size, size)))


def names(code: Callable[[Net, Tensor], Tensor]) -> list[str]:
    return [place.name for place in places_of(Net(code), 4) if not place.weights]


def torchvisions(name: str, **arguments: object) -> list[Place]:
    return places_of(models.get_model(name, **arguments))


def units(name: str, **arguments: object) -> list[str]:
    return [place.name for place in torchvisions(name, **arguments) if place.unit]


def test_the_examples() -> None:
    assert doctest.testmod(cut_points).attempted > 3
    assert doctest.testmod(cut_points).failed == 0


def test_a_place_is_where_one_tensor_is_alive() -> None:
    assert names(lambda net, x: net.b(net.a(x))) == ["a", "b", "mean"]
    assert names(lambda net, x: net.c(net.a(x) + net.b(x))) == ["add", "c", "mean"]

    def shortcut(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.d(x + net.c(net.b(x)))

    assert names(shortcut) == ["a", "add", "d", "mean"]


def test_weights_and_multiples_of_the_batch_do_not_cross() -> None:
    def code(net: Net, x: Tensor) -> Tensor:
        batch, scale = x.shape[0], net.fc.bias.sum().expand(x.shape[0], 1, 1, 1)
        x = net.b(net.a(x).view(batch, 3, 4, 4))
        return (x * scale).view(batch, 3, 2, 8)

    assert names(code) == ["a", "view", "b"]  # from the product on, the classifier's bias is shared

    def without(net: Net, x: Tensor) -> Tensor:
        batch = x.shape[0]
        ones = torch.ones(3, 1, 1)
        x = net.b(net.a(x).view(batch, 3, 4, 4))
        return (x * ones).view(batch, 3, 2, 8)

    assert names(without) == ["a", "view", "b", "mul", "view_1", "mean"]


def test_a_size_that_is_read_later_keeps_nothing_alive() -> None:
    def code(net: Net, x: Tensor) -> Tensor:
        first = net.a(x)
        return net.c(net.b(first)).view(first.shape[0], 3, 2, 8)

    assert names(code) == ["a", "b", "c", "view", "mean"]


def test_random_numbers_cross() -> None:
    def code(net: Net, x: Tensor) -> Tensor:
        noise = torch.rand(3, 1, 1)
        return net.b(net.a(x)) + noise

    assert names(code) == ["add", "mean"]


def test_what_is_written_into_later_is_no_place() -> None:
    assert names(lambda net, x: net.b(net.act(net.a(x)))) == ["act", "b", "mean"]
    assert names(lambda net, x: net.b(net.a(x).view(-1, 3, 2, 8).mul_(2))) == ["mul_", "b", "mean"]

    def through_a_view(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        x.view(-1).add_(1)
        return net.b(x)

    assert names(through_a_view) == ["b", "mean"]


def test_what_crosses_begins_with_the_batch() -> None:
    assert names(lambda net, x: net.b(net.a(x.flatten(0, 1).view(-1, 3, 4, 4)))) == [
        "view", "a", "b", "mean",
    ]  # fmt: skip
    assert names(lambda net, x: net.a(x).transpose(0, 1).transpose(0, 1)) == [
        "a", "transpose_1", "mean",
    ]  # fmt: skip


def test_weights_on_both_sides_are_named() -> None:
    net = Net(lambda net, x: net.d(net.a(net.b(net.a(x)))))
    places = places_of(net, 4)
    shared = {place.name: place.weights for place in places if place.weights}
    assert shared == dict.fromkeys(["a", "b"], ("a.weight", "a.bias"))
    with pytest.raises(InputError) as caught:
        choose_places(places, ["b"])
    assert str(caught.value) == (
        "boundaries: must not part the uses of a.weight, a.bias; may be at a:2, d, but got 'b'"
    )
    tied = Net(lambda net, x: net.c(net.b(net.a(x))))
    tied.c.weight = tied.a.weight
    assert [p.name for p in places_of(tied, 4) if p.weights] == ["a", "b"]


class Counting(nn.Module):
    """Keeps a running sum without telling torch's counters where it computes for real."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) != 0:  # a value, so that it is kept whole and run for real
            self.seen = self.seen + 1
        return x


@pytest.mark.parametrize(
    ("norm", "kept"),
    [
        (nn.BatchNorm2d(3, affine=False), "act.running_mean"),
        (nn.InstanceNorm2d(3, track_running_stats=True), "act.running_mean"),
        (nn.Sequential(nn.BatchNorm2d(3, affine=False)), "act.0.running_mean"),
        (Counting(), "act.seen"),
    ],
)
def test_statistics_on_both_sides_are_named(norm: nn.Module, kept: str) -> None:
    """One process would write them twice in a step, and several would not see each other's."""
    net = Net(lambda net, x: net.c(net.act(net.b(net.act(net.a(x))))))
    net.act = norm
    shared = {place.name for place in places_of(net, 4) if kept in place.weights}
    assert shared == {"act", "b"}
    once = Net(lambda net, x: net.c(net.b(net.act(net.a(x)))))
    once.act = norm
    assert not [place for place in places_of(once, 4) if place.weights]


def test_frozen_statistics_may_be_shared() -> None:
    class Frozen(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Frozen:
            return super().train(False)

    net = Net(lambda net, x: net.c(net.act(net.b(net.act(net.a(x))))))
    net.act = Frozen(3, affine=False)
    assert not [place for place in places_of(net, 4) if place.weights]


def test_statistics_of_a_function_are_seen_and_tables_may_be_shared() -> None:
    def normed(net: Net, x: Tensor) -> Tensor:
        mean, variance = net.kept.running_mean, net.kept.running_var
        return nn.functional.batch_norm(x, mean, variance, training=True)

    def added(net: Net, x: Tensor) -> Tensor:
        return x + net.table

    for code, kept in ((normed, {"kept.running_mean", "kept.running_var"}), (added, set())):
        net = Net(lambda net, x, code=code: net.b(code(net, net.a(code(net, x)))))
        net.kept = nn.BatchNorm2d(3, affine=False)
        net.register_buffer("table", torch.ones(3, 1, 1))
        places = places_of(net, 4)
        assert {name for place in places for name in place.weights} == kept
        assert "a" in [place.name for place in places]


@pytest.mark.parametrize(
    ("name", "count", "first", "last", "shape"),
    [
        ("resnet50", 16, "layer1.0", "layer4.2", (2048, 2, 2)),
        ("mobilenet_v2", 17, "features.1", "features.17", (320, 2, 2)),
        ("efficientnet_v2_s", 40, "features.1.0", "features.6.14", (256, 2, 2)),
        ("convnext_tiny", 18, "features.1.0", "features.7.2", (768, 2, 2)),
        ("densenet121", 4, "features.denseblock1", "features.denseblock4", (1024, 2, 2)),
        ("swin_t", 12, "features.1.0", "features.7.1", (2, 2, 768)),
        ("regnet_y_400mf", 16, "trunk_output.block1.block1-0", "trunk_output.block4.block4-5",
         (440, 2, 2)),
        ("vgg11_bn", 8, "features.2", "features.27", (512, 4, 4)),
        ("squeezenet1_1", 8, "features.3", "features.12", (512, 3, 3)),
    ],
)  # fmt: skip
def test_units(name: str, count: int, first: str, last: str, shape: tuple[int, ...]) -> None:
    found = [place for place in torchvisions(name) if place.unit]
    assert (len(found), found[0].name, found[-1].name) == (count, first, last)
    assert found[-1].shape == shape


class Squeeze(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Separable(nn.Module):
    """Of EfficientNets the only block of its class, and it has no shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.depth, self.squeeze = nn.Conv2d(8, 8, 3, padding=1, groups=8), Squeeze()
        self.point = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.point(self.squeeze(self.depth(x)))


class Inverted(Separable):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def test_a_block_that_is_one_of_its_kind_is_a_unit_by_what_it_holds() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), Separable(), Inverted(), Inverted(),
        nn.Flatten(), nn.Linear(8 * 16, 2),
    )  # fmt: skip
    assert [place.name for place in places_of(model, 4) if place.unit] == ["1", "2", "3"]


def test_units_of_a_transformer_are_its_layers() -> None:
    found = [p for p in torchvisions("vit_b_32", image_size=64) if p.unit]
    assert [p.name for p in found] == [f"encoder.layers.encoder_layer_{i}" for i in range(12)]
    assert {p.shape for p in found} == {(5, 768)}
    between = [b.share - a.share for a, b in itertools.pairwise(found)]
    assert between == pytest.approx([between[0]] * 11)


def place(index: int, share: float, unit: bool = True) -> Place:
    return Place(f"p{index}", (1,), share, unit, (), None, index)  # type: ignore[arg-type]


@pytest.mark.parametrize("layers", [1, 2, 3, 5, 8])
def test_so_many_layers_are_as_even_as_they_can_be(layers: int) -> None:
    shares = [0.02, 0.1, 0.15, 0.2, 0.32, 0.42, 0.55, 0.6]  # the head has 0.4
    places = [place(index, share) for index, share in enumerate(shares)]

    def largest(chosen: list[float]) -> float:
        return max(b - a for a, b in itertools.pairwise([0.0, *chosen]))

    best = min(largest([*inner, 1.0]) for inner in itertools.combinations(shares[:-1], layers - 1))
    chosen = choose_places(places, layers)
    assert len(chosen) == layers
    assert chosen[-1] is places[-1]
    assert largest([*(p.share for p in chosen[:-1]), 1.0]) == best


def test_units_are_preferred_and_the_head_follows_the_last() -> None:
    places = [place(i, (i + 1) / 10, unit=i in (1, 3)) for i in range(6)]

    def chosen(boundaries: Boundaries) -> list[int]:
        return [p.index for p in choose_places(places, boundaries)]

    assert chosen("all") == [0, 1, 2, 3]
    assert chosen("units") == chosen(2) == [1, 3]
    assert chosen(4) == [0, 1, 2, 3]
    assert chosen(["p2", "p0"]) == [0, 2, 3]
    assert chosen([]) == [3]


@pytest.mark.parametrize(
    ("boundaries", "message"),
    [
        (5, "boundaries: must be 1 to 4 layers, but got 5"),
        (0, "boundaries: must be 1 to 2 layers, but got 0"),
        (
            "unit",
            "boundaries: must be all, units, a number of layers or a list of names, but got 'unit'",
        ),
        (["p3"], "boundaries: must be below the head, at p0, p1, p2, but got 'p3'"),
        (["layer9"], "boundaries: must be below the head, at p0, p1, p2, but got 'layer9'"),
    ],
)
def test_wrong_boundaries(boundaries: Boundaries, message: str) -> None:
    places = [place(i, (i + 1) / 10, unit=i in (1, 3)) for i in range(6)]
    with pytest.raises(InputError) as caught:
        choose_places(places, boundaries)
    assert str(caught.value) == message


class Branches(nn.Module):
    """Two from the images to the logits, one of them of unknown code."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()) for _ in range(2))
        self.c = Branching()

    def forward(self, images: Tensor) -> Tensor:
        left, right = self.a(images), self.b(images[:, :, ::2])
        return left.mean((2, 3)) + self.c(right)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


def test_a_model_whose_branches_never_meet_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        places_of(Branches(), 8)
    assert str(caught.value) == (
        "model: must have a place that one tensor crosses, but got 'Branches: at the least "
        "a.1 (B, 4, 6, 6) and getitem (B, 3, 4, 8) cross; c is kept whole: a branch on a value, "
        "gt'"
    )
    with pytest.raises(InputError, match=r"but got 'Linear: nothing crosses'$"):
        find_places(trace(nn.Linear(4, 2), torch.zeros(1, 4)))


def test_a_model_without_a_place_is_refused() -> None:
    with pytest.raises(InputError, match=r"^model: must have a place that one tensor crosses"):
        choose_places([], "units")
