"""Auxiliary networks: published sizes, structure, the PredSim loss, registry, derivatives."""

from __future__ import annotations

import pytest
import torch
from documented import run_example
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from sedona_nni.decouplings.cost import Cost, auxiliary_cost, count_parameters
from sedona_nni.errors import InputError
from sedona_nni.image_size import ImageSize
from sedona_nni.models import FeatureShape, build_backbone
from sedona_nni.teachers.auxiliary import (
    AUXILIARY,
    AuxiliaryContext,
    AuxiliaryNetwork,
    CnnAuxiliary,
    PredSim,
    auxiliary_context,
    auxiliary_names,
    build_auxiliary,
    check_auxiliary,
    register_auxiliary,
    similarity_matrix,
)

NAMES = ["conv1", "conv2", "conv3", "conv4", "mlp-sr", "mlp", "linear", "cnn", "cnn5x5"]
NAMES += ["predsim", "predsim-flat"]
TEACHERS = ["infopro", "infopro-contrast", "recon", "man", "man++", "barlow"]


def context(channels: int, size: ImageSize, **settings: object) -> AuxiliaryContext:
    """Stand at a boundary of that shape, with 10 classes unless said otherwise."""
    shape = FeatureShape(channels, size)
    return AuxiliaryContext(shape, **{"num_classes": 10, **settings})  # type: ignore[arg-type]


# VGG-19 at width multiplier 1 on 32-pixel images: boundaries and (parameters, MACs) at each
VGG19 = {
    (0, 1): {
        "conv1": (8_318, 604_160),
        "conv2": (8_662, 673_792),
        "conv3": (10_066, 377_856),
        "conv4": (10_678, 410_112),
        "mlp-sr": (14_378, 62_080),
        "predsim": (7_434, 2_364_416),
    },
    (2, 3): {
        "conv1": (10_610, 337_408),
        "conv2": (11_554, 388_608),
        "conv3": (14_682, 251_904),
        "conv4": (16_482, 277_248),
        "mlp-sr": (54_858, 99_584),
        "predsim": (14_346, 2_364_416),
    },
    (4, 5, 6, 7): {
        "conv1": (15_578, 204_032),
        "conv2": (18_490, 246_016),
        "conv3": (26_026, 188_928),
        "conv4": (31_930, 210_816),
        "mlp-sr": (214_154, 248_320),
        "predsim": (41_994, 2_364_416),
    },
    (8, 9, 10, 11): {
        "conv1": (27_050, 137_344),
        "conv2": (36_970, 174_720),
        "conv3": (57_162, 157_440),
        "conv4": (78_186, 177_600),
        "mlp-sr": (101_514, 99_584),
        "predsim": (152_586, 2_364_416),
    },
    (12, 13, 14): {
        "conv1": (27_050, 38_176),
        "conv2": (36_970, 47_520),
        "conv3": (46_890, 56_864),
        "conv4": (56_810, 66_208),
        "mlp-sr": (101_514, 99_584),
        "predsim": (152_586, 594_944),
    },
}


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize("boundaries", list(VGG19), ids=str)
def test_sizes_at_every_boundary_of_vgg19(boundaries: tuple[int, ...]) -> None:
    with torch.device("meta"):
        backbone = build_backbone("vgg19", num_classes=10)
    for boundary in boundaries:
        where = auxiliary_context(backbone, boundary)
        for name, (parameters, macs) in VGG19[boundaries].items():
            assert auxiliary_cost(name, where) == Cost(parameters, macs), (boundary, name)


# Belilovsky et al.'s study of auxiliary networks, counted by hand for C channels, 10 classes:
# m = 4C; mlp 3 (m^2 + 3m) + 10m + 10, MACs 3 m^2 + 10m
# mlp-sr adds 3 (C^2 + 2C), MACs 3 C^2 (S/4)^2
# cnn 2 (9 C^2 + 2C) + 2C + 10m + 10, MACs 2 * 9 C^2 S^2 + 10m
@pytest.mark.parametrize(
    ("channels", "size", "millions"),
    [
        (128, 32, {"mlp": (0.80, 0.79), "mlp-sr": (0.85, 3.94), "cnn": (0.30, 302)}),
        (256, 16, {"mlp": (3.17, 3.16), "mlp-sr": (3.36, 6.30), "cnn": (1.19, 302)}),
        (512, 8, {"mlp": (12.62, 12.6), "mlp-sr": (13.41, 15.75), "cnn": (4.74, 302)}),
    ],
)
def test_sizes_in_the_study_of_auxiliary_networks(
    channels: int, size: int, millions: dict[str, tuple[float, float]]
) -> None:
    c, m = channels, 4 * channels
    mlp = Cost(3 * (m**2 + 3 * m) + 10 * m + 10, 3 * m**2 + 10 * m)
    by_hand = {
        "mlp": mlp,
        "mlp-sr": mlp + Cost(3 * (c**2 + 2 * c), 3 * c**2 * (size // 4) ** 2),
        "cnn": Cost(2 * (9 * c**2 + 2 * c) + 2 * c + 10 * m + 10, 2 * 9 * c**2 * size**2 + 10 * m),
    }
    for name, (parameters, macs) in millions.items():
        cost = auxiliary_cost(name, context(channels, size))
        assert cost == by_hand[name]
        assert cost.parameters / 1e6 == pytest.approx(parameters, abs=0.006)
        assert cost.macs / 1e6 == pytest.approx(macs, rel=0.005)


# All four light networks at all boundaries together with the backbone
@pytest.mark.fast_cases(4)
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("vgg11", 2_611_310),
        ("vgg13", 2_713_978),
        ("vgg16", 3_505_506),
        ("vgg19", 4_297_034),
        ("resnet18", 2_413_906),
        ("resnet34", 5_263_682),
        ("resnet50", 9_125_090),
        ("resnet101", 19_397_578),
        ("resnet152", 28_121_650),
    ],
)
def test_parameters_of_the_relaxed_network(name: str, parameters: int) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name, num_classes=10)
        total = count_parameters(backbone) + sum(
            count_parameters(build_auxiliary(f"conv{depth}", auxiliary_context(backbone, i)))
            for i in range(backbone.num_layers - 1)
            for depth in (1, 2, 3, 4)
        )
    assert total == parameters


def test_light_network_without_expansion() -> None:
    """ResNet-18, C = 16, S = 32, e = 1: p = 16, the third network's strided block doubles it.

    stem 16*16 + 32 + 9*16 + 32; block 9*16 + 32 + 16*16 + 32; strided 9*16 + 32 + 16*32 + 64;
    tail 32*512 + 1024; classifier 5130.
    """
    by_hand = 464 + 464 + 752 + 17_408 + 5_130
    assert auxiliary_cost("conv3", context(16, 32, expansion=1)).parameters == by_hand


class TestStepByStep:
    """The networks in evaluation mode, written out with the weights in their order.

    Fresh batch norms in evaluation mode only divide by sqrt(1 + 1e-5).
    """

    @pytest.fixture
    def features(self) -> Tensor:
        torch.manual_seed(0)
        return torch.randn(3, 16, 8, 8)

    @staticmethod
    def norm(x: Tensor) -> Tensor:
        return x / (1 + 1e-5) ** 0.5

    def test_light_network_of_depth_4(self, features: Tensor) -> None:
        """p = 4; the second of three blocks is strided and widens to 6."""
        network = build_auxiliary("conv4", context(16, 8)).eval()
        weights = iter(network.parameters())

        def unit(x: Tensor, stride: int = 1, activate: bool = True) -> Tensor:
            weight, _bn_weight, _bn_bias = next(weights), next(weights), next(weights)
            depthwise = weight.shape[-1] == 3
            groups = x.shape[1] if depthwise else 1
            x = F.conv2d(x, weight, stride=stride, padding=int(depthwise), groups=groups)
            return self.norm(x).relu() if activate else self.norm(x)

        x = unit(unit(features), stride=2)
        assert x.shape == (3, 4, 4, 4)
        x = x + unit(unit(unit(x)), activate=False)
        x = unit(unit(unit(x), stride=2), activate=False)
        assert x.shape == (3, 6, 2, 2)
        x = x + unit(unit(unit(x)), activate=False)
        x = unit(x).mean(dim=(2, 3))
        expected = F.linear(x, next(weights), next(weights))
        # Ten layers of float32 by other kernels; a layer left out changes the first digit
        torch.testing.assert_close(network(features), expected, rtol=1e-3, atol=1e-4)

    def test_a_block_without_expansion_has_no_first_convolution(self) -> None:
        network = build_auxiliary("conv2", context(4, 8, expansion=1))
        sizes = [tuple(p.shape) for p in network.light.blocks.parameters() if p.dim() == 4]  # type: ignore[union-attr]
        assert sizes == [(4, 1, 3, 3), (4, 4, 1, 1)]

    @pytest.mark.parametrize(("name", "convs"), [("mlp-sr", 3), ("mlp", 0)])
    def test_mlp(self, features: Tensor, name: str, convs: int) -> None:
        network = build_auxiliary(name, context(16, 8)).eval()
        weights = iter(network.parameters())
        x = F.avg_pool2d(features, 4)  # 8 to ceil(8 / 4) = 2, and it stays at 2
        for _ in range(convs):
            x = self.norm(F.conv2d(x, next(weights))).relu()
            next(weights), next(weights)
        x = x.flatten(1)
        for _ in range(3):
            x = self.norm(F.linear(x, next(weights), next(weights))).relu()
            next(weights), next(weights)
        torch.testing.assert_close(network(features), F.linear(x, next(weights), next(weights)))

    def test_cnn(self, features: Tensor) -> None:
        network = build_auxiliary("cnn", context(16, 8)).eval()
        weights = iter(network.parameters())
        x = features
        for _ in range(2):
            x = self.norm(F.conv2d(x, next(weights), padding=1)).relu()
            next(weights), next(weights)
        x = self.norm(F.avg_pool2d(x, 4)).flatten(1)
        next(weights), next(weights)
        torch.testing.assert_close(network(features), F.linear(x, next(weights), next(weights)))


def test_convolutions_of_5x5() -> None:
    """The DNI paper's width 128: 3 (25 128^2 + 128) + 2 * 256 + 1,290; MACs 3 * 25 128^2 S^2."""
    cost = auxiliary_cost("cnn5x5", context(128, 10))
    assert cost == Cost(3 * (25 * 128**2 + 128) + 2 * 256 + 1290, 3 * 25 * 128**2 * 100 + 1280)
    features = torch.randn(3, 4, 6, 6)
    network = build_auxiliary("cnn5x5", context(4, 6)).eval()
    weights = iter(network.parameters())
    x = features
    for index in range(3):
        x = F.conv2d(x, next(weights), next(weights), padding=2)
        if index < 2:
            x = TestStepByStep.norm(x).relu()
            next(weights), next(weights)
    x = F.linear(x.mean(dim=(2, 3)), next(weights), next(weights))
    torch.testing.assert_close(network(features), x)


def test_light_networks_of_any_depth() -> None:
    """Blocks 1, 3, 5, ... halve the map while it has 2 pixels or more, and widen by p // 2."""
    with torch.device("meta"):
        network = build_auxiliary("conv9", context(64, 16))  # p = 16; 16 -> 8
        out = network.light.stem([torch.empty(2, 64, 16, 16)])  # type: ignore[operator]
        shapes = []
        for block in network.light.blocks:  # type: ignore[union-attr]
            out = block(out)
            shapes.append((out.shape[1], out.shape[2]))
    assert shapes == [(16, 8), (24, 4), (24, 4), (32, 2), (32, 2), (40, 1), (40, 1), (40, 1)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("channels", "size", "multiplier", "expansion"),
    [(12, 7, 0.5, 4), (2, 1, 0.01, 4), (5, 2, 0.1, 1)],
)
def test_any_shape_gives_logits_and_a_loss(
    name: str, channels: int, size: int, multiplier: float, expansion: int
) -> None:
    torch.manual_seed(0)
    where = context(channels, size, width_multiplier=multiplier, expansion=expansion)
    network = build_auxiliary(name, where)
    features, labels = torch.randn(4, channels, size, size), torch.tensor([1, 2, 3, 3])
    assert network(features).shape == (4, 10)
    loss, logits = network.local_loss(features, labels, F.cross_entropy)
    assert loss.shape == ()
    assert logits.shape == (4, 10)
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_context_sets_the_number_of_classes_and_the_activation(name: str) -> None:
    network = build_auxiliary(name, context(8, 8, num_classes=7, activation=nn.Softplus))
    assert network(torch.randn(2, 8, 8, 8)).shape == (2, 7)
    assert not any(isinstance(part, nn.ReLU) for part in network.modules())


def test_the_context_of_a_backbone() -> None:
    with torch.device("meta"):
        small = build_backbone("resnet18", num_classes=7, width_multiplier=2, activation=nn.Tanh)
        large = build_backbone("resnet50", num_classes=7)
    assert auxiliary_context(small, 2) == AuxiliaryContext(
        FeatureShape(64, 16), 7, width_multiplier=2, expansion=1, activation=nn.Tanh
    )
    assert auxiliary_context(large, 0) == AuxiliaryContext(FeatureShape(64, 32), 7, expansion=4)


def test_weights_are_initialised_like_the_backbone() -> None:
    torch.manual_seed(0)
    network = build_auxiliary("mlp-sr", context(64, 32))
    for part in network.modules():
        if isinstance(part, nn.Linear):
            fan_in = part.weight.shape[1]
            assert part.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
            assert not part.bias.any()


def test_by_default_the_local_loss_is_the_criterion_of_the_logits() -> None:
    network = build_auxiliary("conv2", context(8, 8)).eval()
    features, labels = torch.randn(3, 8, 8, 8), torch.tensor([0, 1, 9])
    loss, logits = network.local_loss(features, labels, lambda x, y: x.sum() + y.sum())
    assert torch.equal(logits, network(features))
    assert torch.equal(loss, logits.sum() + 10)


class TestPredSim:
    @pytest.mark.parametrize(
        ("channels", "size", "target", "kernel", "padding", "pooled"),
        [
            (16, 32, 1, (8, 4), (0, 0), 512),
            (32, 16, 1, (4, 4), (0, 0), 512),
            (64, 8, 1, (4, 2), (0, 0), 512),
            (128, 2, 1, (1, 1), (0, 0), 512),
            (256, 7, 1, (8, 4), (4, 2), 512),  # 256*49 -> *4*7 -> *4*4 -> *2*4 -> *2*2 -> *1*2
            (1024, 2, 1, (2, 2), (0, 0), 1024),  # cannot go below one pixel
        ],
    )
    def test_pooling_leaves_at_most_512_features(
        self,
        channels: int,
        size: int,
        target: float,
        kernel: tuple[int, int],
        padding: tuple[int, int],
        pooled: int,
    ) -> None:
        network = build_auxiliary("predsim", context(channels, size, width_multiplier=target))
        assert isinstance(network, PredSim)
        assert network.pool.kernel_size == kernel
        assert network.pool.padding == padding
        assert network.classifier.in_features == pooled
        assert network(torch.randn(1, channels, size, size)).shape == (1, 10)

    def test_a_side_of_one_pixel_is_not_pooled(self) -> None:
        """64 x 1 x 50 -> x 25 -> x 13 -> x 7: 448 features."""
        network = build_auxiliary("predsim", context(64, (1, 50)))
        assert isinstance(network, PredSim)
        assert (network.pool.kernel_size, network.pool.padding) == ((1, 8), (0, 4))
        assert network.classifier.in_features == 448

    def test_similarity_of_two_samples_by_hand(self) -> None:
        """x1 = (1, 2, 6) - 3 = (-2, -1, 3), x2 = (2, 2, 5) - 3 = (-1, -1, 2).

        R_12 = (2 + 1 + 6) / sqrt(14 * 6)
        """
        expected = 9 / 84**0.5
        flat = similarity_matrix(torch.tensor([[1.0, 2.0, 6.0], [2.0, 2.0, 5.0]]))
        torch.testing.assert_close(flat, torch.tensor([[1.0, expected], [expected, 1.0]]))

    def test_maps_are_reduced_to_their_standard_deviation(self) -> None:
        maps = torch.randn(5, 4, 3, 3)
        deviations = torch.stack([torch.stack([c.std() for c in sample]) for sample in maps])
        torch.testing.assert_close(similarity_matrix(maps), similarity_matrix(deviations))
        few_channels, single_pixels = maps[:, :3], maps[:, :, :1, :1]
        for kept in (few_channels, single_pixels):
            torch.testing.assert_close(similarity_matrix(kept), similarity_matrix(kept.flatten(1)))

    def test_rows_are_reduced_as_columns_are(self) -> None:
        rows = torch.randn(5, 4, 1, 6)
        deviations = similarity_matrix(rows.flatten(2).std(dim=2))
        torch.testing.assert_close(similarity_matrix(rows), deviations)
        torch.testing.assert_close(similarity_matrix(rows.transpose(2, 3)), deviations)

    def test_loss_by_hand(self) -> None:
        """2 classes, labels 0, 1, 1: R(onehot) is 1 for equal labels, -1 for others."""
        torch.manual_seed(0)
        network = build_auxiliary("predsim", context(4, 4, num_classes=2))
        assert isinstance(network, PredSim)
        features, labels = torch.randn(3, 4, 4, 4), torch.tensor([0, 1, 1])

        def never(_logits: Tensor, _labels: Tensor) -> Tensor:
            raise AssertionError("the published loss takes no other criterion")

        loss, logits = network.local_loss(features, labels, never)
        target = torch.tensor([[1.0, -1, -1], [-1, 1, 1], [-1, 1, 1]])
        similar = similarity_matrix(network.similarity(features))
        by_hand = 0.01 * F.cross_entropy(logits, labels) + 0.99 * (similar - target).square().mean()
        torch.testing.assert_close(loss, by_hand)
        torch.testing.assert_close(logits, network(features))

    def test_flat_compares_whole_maps(self) -> None:
        """Two samples of equal spread per channel, one with its pixels permuted."""
        torch.manual_seed(0)
        one = torch.randn(1, 5, 4, 4)
        features = torch.cat([one, one.flatten(2).flip(2).view_as(one)])
        torch.testing.assert_close(similarity_matrix(features), torch.ones(2, 2))
        assert similarity_matrix(features, of_std=False)[0, 1] < 0.9
        network = build_auxiliary("predsim-flat", context(5, 4, num_classes=2))
        assert isinstance(network, PredSim)
        loss, logits = network.local_loss(features, torch.tensor([0, 1]), F.cross_entropy)
        similar = similarity_matrix(network.similarity(features), of_std=False)
        target = torch.tensor([[1.0, -1], [-1, 1]])
        labels = torch.tensor([0, 1])
        by_hand = 0.01 * F.cross_entropy(logits, labels) + 0.99 * (similar - target).square().mean()
        torch.testing.assert_close(loss, by_hand)

    def test_a_sample_without_any_signal_has_finite_derivatives(self) -> None:
        torch.manual_seed(0)
        network = build_auxiliary("predsim", context(4, 4))
        features = torch.randn(3, 4, 4, 4)
        features[0] = 0
        features.requires_grad_()
        loss, _ = network.local_loss(features, torch.tensor([0, 1, 1]), F.cross_entropy)
        inputs = [features, *network.parameters()]
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        norm = torch.stack([g.square().sum() for g in first]).sum()
        second = torch.autograd.grad(norm, inputs)
        assert all(g.isfinite().all() for g in (*first, *second))


class TestRegistry:
    def test_names(self) -> None:
        assert {*auxiliary_names()} == {*NAMES, *TEACHERS, "aug1", "aug2", "aug3"}
        assert auxiliary_names()[: len(NAMES)] == NAMES
        for name in [*NAMES, "conv12", "aug9"]:
            check_auxiliary(name)

    @pytest.mark.parametrize("name", ["conv0", "conv", "conv-1", "conv01", "resnet18", ""])
    def test_unknown_name(self, name: str) -> None:
        message = (
            "aux: must be one of conv1, conv2, conv3, conv4, mlp-sr, mlp, linear, cnn, cnn5x5, "
            "predsim, predsim-flat, aug1, aug2, aug3, infopro, infopro-contrast, recon, man, "
            "man++, barlow "
            f"(or a deeper convN) (or a deeper augN), but got {name!r}"
        )
        for call in (check_auxiliary, lambda n: build_auxiliary(n, context(4, 4))):
            with pytest.raises(InputError) as caught:
                call(name)
            assert str(caught.value) == message

    def test_what_makes_no_network(self) -> None:
        register_auxiliary("none-at-all")(lambda context: None)  # type: ignore[arg-type, return-value]
        try:
            with pytest.raises(InputError, match=r"^aux: none-at-all must make an Auxil.*'NoneT"):
                build_auxiliary("none-at-all", context(1, 1))
        finally:
            AUXILIARY.remove("none-at-all")

    @pytest.mark.parametrize("name", ["cnn", "conv7", "none"])
    def test_a_taken_name(self, name: str) -> None:
        with pytest.raises(InputError, match=f"must have a name that is not taken, .*'{name}'"):
            register_auxiliary(name)(CnnAuxiliary)

    def test_the_documented_example_works(self) -> None:
        run_example(register_auxiliary)
        try:
            assert auxiliary_names()[-1] == "mean"
            network = build_auxiliary("mean", context(4, 8))
            assert isinstance(network, AuxiliaryNetwork)
            assert network(torch.randn(2, 4, 8, 8)).shape == (2, 10)
            assert auxiliary_cost("mean", context(4, 8)) == Cost(4 * 10 + 10, 4 * 10)
        finally:
            AUXILIARY.remove("mean")


# torch's own forward mode uses torch.jit.script when it is first needed
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["conv1", "conv4", "mlp-sr", "cnn", "predsim"])
def test_derivatives(name: str) -> None:
    """In float64, training mode: double backward and forward mode over reverse mode agree."""
    torch.manual_seed(0)
    where = context(8, 4, num_classes=3, width_multiplier=0.05, activation=nn.Softplus)
    network = build_auxiliary(name, where).double()
    features = torch.randn(4, 8, 4, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2])
    weights = {key: value.detach() for key, value in network.named_parameters()}
    buffers = {key: value.clone() for key, value in network.named_buffers()}
    v = {key: torch.randn_like(value) for key, value in weights.items()}

    class LocalLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self) -> Tensor:
            return network.local_loss(features, labels, F.cross_entropy)[0]

    module = LocalLoss()

    def loss(w: dict[str, Tensor]) -> Tensor:
        state = {**w, **{key: value.clone() for key, value in buffers.items()}}
        return functional_call(module, {f"network.{key}": value for key, value in state.items()})

    leaves = {key: value.clone().requires_grad_() for key, value in weights.items()}
    gradient = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    along = torch.stack([(g * v[key]).sum() for g, key in zip(gradient, leaves, strict=True)]).sum()
    product = torch.autograd.grad(along, list(leaves.values()))
    _, forward_over_reverse = torch.func.jvp(torch.func.grad(loss), (weights,), (v,))
    for key, expected in zip(leaves, product, strict=True):
        torch.testing.assert_close(forward_over_reverse[key], expected, rtol=1e-6, atol=1e-9)

    step = 1e-6
    moved = [loss({key: weights[key] + s * v[key] for key in weights}) for s in (step, -step)]
    slope = (moved[0] - moved[1]) / (2 * step)
    torch.testing.assert_close(along.detach(), slope, rtol=1e-6, atol=1e-7)
