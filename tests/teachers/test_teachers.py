"""Teachers, which know more than the features at their boundary: values by hand, and what the
releases' own code computed for the same numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.cost import describe
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import FeatureShape, build_backbone
from sedona_nni.task import Task
from sedona_nni.teachers.auxiliary import (
    AUXILIARY,
    AugmentedAuxiliary,
    AuxiliaryContext,
    AuxiliaryNetwork,
    BarlowTwins,
    InfoPro,
    MomentumAuxiliary,
    Reconstruction,
    Seen,
    Teacher,
    auxiliary_context,
    build_auxiliary,
    check_auxiliary,
    follows,
    looks,
    places,
    register_auxiliary,
    sampled_layers,
)
from sedona_nni.teachers.auxiliary.barlow import redundancy
from sedona_nni.teachers.auxiliary.infopro import contrast
from sedona_nni.training.methods import build_method
from sedona_nni.training.settings import TrainSettings

LABELS = torch.tensor([0, 1, 2, 3])


def waves(*shape: int, step: float = 0.37) -> Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * step).reshape(shape)


def set_to_waves(module: nn.Module, phases: list[int]) -> None:
    """Give a module the weights with which the release's was run; norms have 1 more."""
    norms = {id(part.weight) for part in module.modules() if isinstance(part, nn.BatchNorm2d)}
    with torch.no_grad():
        for weight, phase in zip(module.parameters(), phases, strict=True):
            numbers = torch.sin(torch.arange(weight.numel(), dtype=torch.float64) + phase)
            weight.copy_(0.1 * numbers.reshape(weight.shape) + (id(weight) in norms))


def boundary(
    name: str, cut: int = 2, first: int = 0, backbone: str = "resnet18", **changes: Any
) -> AuxiliaryNetwork:
    torch.manual_seed(0)
    built = build_backbone(backbone, num_classes=10, **changes)
    return build_auxiliary(name, auxiliary_context(built, cut, name, first)).double()


def learned_from(network: AuxiliaryNetwork, features: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
    assert isinstance(network, Teacher)
    return network.teach(features, LABELS, F.cross_entropy, seen)


# ---- Layers like those above ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (1, [[15]] * 14),
        (
            3,
            [
                *([5, 10, 15], [6, 10, 15], [6, 11, 15], [7, 11, 15], [8, 11, 15], [8, 12, 15]),
                *([10, 15], [11, 15], [12, 15], [12, 15], [12, 15], [13, 15]),
            ],
        ),
        (
            5,
            [
                *([3, 6, 9, 12, 15], [4, 7, 9, 12, 15], [5, 7, 10, 12, 15], [6, 9, 12, 15]),
                *([7, 10, 12, 15], [8, 10, 12, 15], [8, 10, 13, 15], [10, 12, 15]),
                *([10, 13, 15], [11, 13, 15]),
            ],
        ),
    ],
)
def test_sampled_layers(depth: int, expected: list[list[int]]) -> None:
    """By the release's formulas, for its ResNet-32, which has 16 - d blocks then."""
    assert [sampled_layers(depth, i, 16) for i in range(len(expected))] == expected
    assert sampled_layers(depth, 14, 16) == [15]


def test_sampled_layers_of_a_deep_network() -> None:
    """ResNet-110 with d = 5 in 50 blocks: three of the release's lists, and how long all are."""
    assert sampled_layers(5, 10, 55) == [19, 28, 36, 45, 54]
    assert sampled_layers(5, 30, 55) == [36, 42, 48, 54]
    assert sampled_layers(5, 48, 55) == [50, 52, 54]
    assert [len(sampled_layers(5, i, 55)) for i in range(49)] == [5] * 12 + [4] * 25 + [3] * 12


def test_layers_are_like_those_above_but_new() -> None:
    """Residual blocks whose widths and strides follow each other: nothing stands between."""
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", num_classes=10)
    context = auxiliary_context(backbone, 4, "aug3")
    network = build_auxiliary("aug3", context)
    assert isinstance(network, AugmentedAuxiliary)
    # max(1, round(3/2 + 1/2)) = 2 of the three above: round(4 + 3/2), round(4 + 3)
    assert sampled_layers(3, 4, 8) == [6, 7]
    sixth, seventh = network.layers
    for new, above in ((sixth, backbone.layers[6]), (seventh, backbone.layers[7])):
        assert type(new) is type(above)
        shapes = [weight.shape for weight in above.parameters()]
        assert [weight.shape for weight in new.parameters()] == shapes
        pairs = zip(new.parameters(), above.parameters(), strict=True)
        assert not any(torch.equal(a, b) for a, b in pairs if a.dim() > 1)
        assert {id(w) for w in new.parameters()}.isdisjoint(id(w) for w in above.parameters())


def test_what_is_missing_between_layers_goes_before_them() -> None:
    """VGG-11: sampled layers that are wider, and see smaller maps, than the one below has."""
    network = boundary("aug1", 0, backbone="vgg11")
    assert isinstance(network, AugmentedAuxiliary)
    pool, widen, layer = network.layers
    assert isinstance(pool, nn.AdaptiveAvgPool2d)
    assert isinstance(widen, nn.Sequential)
    features = waves(4, 16, 32, 32)
    out = layer(widen(pool(features)))
    pooled = out.mean(dim=(2, 3))
    torch.testing.assert_close(network(features), network.classifier(pooled))


def test_tokens_go_through_layers_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many below as above, with one of the class."""

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, tokens: Tensor) -> Tensor:
            assert tokens.shape[1:] == (5, 6)
            return tokens + self.linear(tokens)

    backbone = build_backbone("vgg11", num_classes=10)
    shape = FeatureShape(6, 2, "tokens", 1)
    backbone.layers = nn.ModuleList(Step() for _ in range(4))
    backbone.shapes = [shape] * 4
    network = build_auxiliary("aug2", auxiliary_context(backbone, 1, "aug2")).double()
    assert network(waves(4, 5, 6)).shape == (4, 10)


def test_layers_that_take_another_form_are_refused() -> None:
    backbone = build_backbone("vgg11", num_classes=10)
    backbone.shapes[3] = FeatureShape(16, 4, "tokens")
    with pytest.raises(InputError, match=r"^aux: must not stand at boundary 3, .* 'aug1'$"):
        build_auxiliary("aug1", auxiliary_context(backbone, 3, "aug1"))


# ---- InfoPro -------------------------------------------------------------------------------------


def infopro(name: str) -> tuple[InfoPro, Tensor, Tensor]:
    """One of 16 channels of 4x4 in a ResNet of 8x8 images, and a batch."""
    backbone = build_backbone("resnet18", num_classes=10, image_size=8)
    context = replace(auxiliary_context(backbone, 0, name), shape=FeatureShape(16, 4))
    network = build_auxiliary(name, context).double()
    assert isinstance(network, InfoPro)
    set_to_waves(network.decoder, [16, 14, 16, 14, 16, 14])
    set_to_waves(network.encoder, [13, 13, 11, 13, 11, 13, 11])
    return network, waves(4, 16, 4, 4), (waves(4, 3, 8, 8, step=0.11) + 1) / 2


def test_infopro_is_the_releases() -> None:
    """Its decoder, its classifier of one convolution and two linear layers, its contrast."""
    network, features, images = infopro("infopro")
    large = F.interpolate(features, (8, 8), mode="bilinear", align_corners=True)
    decoded = network.decoder(large).sigmoid()
    assert float(F.binary_cross_entropy(decoded, images).detach()) == pytest.approx(
        0.6934589743614197, abs=1e-6
    )
    loss = F.cross_entropy(network(features), LABELS).detach()
    assert float(loss) == pytest.approx(2.3589258193969727, abs=1e-5)
    network, features, _ = infopro("infopro-contrast")
    z = F.normalize(network.encoder(features))
    shares = F.one_hot(torch.tensor([0, 1, 0, 1])).double()
    found = float(contrast(z, shares, 0.07).detach())
    assert found == pytest.approx(1.1140512228012085, abs=1e-5)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([0, 1, 0, 1, 1, 0], 8.82720947265625), ([0, 1, 0, 1, 1, 2], 10.056903839111328)],
)
def test_contrast(labels: list[int], expected: float) -> None:
    """By the release, also where an image is alone of its class; and written out."""
    z = F.normalize(torch.sin(torch.arange(1, 25, dtype=torch.float64)).reshape(6, 4))
    shares = F.one_hot(torch.tensor(labels)).double()
    found = float(contrast(z, shares, 0.07))
    assert found == pytest.approx(expected, rel=1e-6)
    total = 0.0
    for i in range(6):
        others = [j for j in range(6) if j != i]
        whole = sum(math.exp(float(z[i] @ z[k]) / 0.07) for k in others)
        alike = [j for j in others if labels[j] == labels[i]]
        for j in alike:
            total -= (float(z[i] @ z[j]) / 0.07 - math.log(whole)) / len(alike) / 6
    assert found == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize(("cut", "keep", "tell"), [(0, 5.0, 0.5), (3, 2.75, 0.75), (6, 0.5, 1.0)])
def test_infopro_weighs_by_height(cut: int, keep: float, tell: float) -> None:
    network = boundary("infopro", cut)
    assert isinstance(network, InfoPro)
    channels, size = (16, 32) if cut == 0 else (32, 16) if cut == 3 else (128, 4)
    features, images = waves(4, channels, size, size), waves(4, 3, 32, 32)
    loss, logits = learned_from(network, features, Seen(images, images))
    large = F.interpolate(features, (32, 32), mode="bilinear", align_corners=True)
    dark = images.amin(dim=(0, 2, 3), keepdim=True)
    bright = images.amax(dim=(0, 2, 3), keepdim=True)
    kept = F.binary_cross_entropy(
        network.decoder(large).sigmoid(), (images - dark) / (bright - dark)
    )
    torch.testing.assert_close(loss, keep * kept + tell * F.cross_entropy(logits, LABELS))


def test_contrast_classifies_by_running_means_of_classes() -> None:
    network = boundary("infopro-contrast", 0)
    assert isinstance(network, InfoPro)
    assert network.classes is not None
    features, images = waves(4, 16, 32, 32), waves(4, 3, 32, 32)
    labels = torch.tensor([0, 2, 0, 2])
    z = F.normalize(network.encoder(features)).detach()
    network.teach(features, labels, F.cross_entropy, Seen(images, images))
    means = network.classes.means
    assert means[1].eq(0).all()
    for label, rows in ((0, z[::2]), (2, z[1::2])):
        torch.testing.assert_close(means[label], 0.1 * rows.mean(0))
    expected = F.normalize(network.encoder(features)) @ means.T / 0.07
    torch.testing.assert_close(network(features), expected)


# ---- Barlow Twins --------------------------------------------------------------------------------


def test_redundancy_written_out() -> None:
    """Six images of which each is twice, and five numbers of each."""
    projected = waves(12, 5, step=0.9).square() + waves(12, 5)
    z = torch.empty_like(projected)
    for d in range(5):
        column = projected[:, d]
        mean = column.sum() / 12
        z[:, d] = (column - mean) / (((column - mean) ** 2).sum() / 12 + 1e-5).sqrt()
    total = 0.0
    for i in range(5):
        for j in range(5):
            alike = sum(float(z[2 * k, i] * z[2 * k + 1, j]) for k in range(6)) / 6
            total += (1 - alike) ** 2 if i == j else 0.005 * alike**2
    assert float(redundancy(projected)) == pytest.approx(total / 5, rel=1e-10)


def test_equal_views_of_independent_numbers_are_no_redundancy() -> None:
    rows = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert float(redundancy(rows.repeat_interleave(2, 0))) < 1e-9


def test_labels_teach_a_block_nothing(splits: Splits) -> None:
    """They only move the means of classes."""
    settings = TrainSettings.model_validate({"views": 2, "batch_size": 8})
    found = []
    for labels in (torch.arange(4), torch.zeros(4, dtype=torch.long)):
        network = cut_in_two("barlow")
        method = build_method(network, settings, splits, 5)
        method.start_epoch(1)
        images = waves(8, 1, 8, 8).float()
        method.step(images, labels.repeat_interleave(2))
        lower = network.blocks[0]
        assert isinstance(lower.classifier, BarlowTwins)
        found.append(nn.utils.parameters_to_vector(lower.parameters()))
        assert lower.classifier.classes.means.any()
    assert torch.equal(*found)


def test_each_image_has_to_be_there_twice(splits: Splits) -> None:
    with pytest.raises(InputError, match=r"^views: must be 2 for barlow, but got 1$"):
        TrainSettings().check_aux(["barlow"])
    TrainSettings(views=2).check_aux(["barlow", "conv1"])
    with pytest.raises(InputError, match=r"^augmentation: must not be none for barlow, which "):
        TrainSettings(views=2, augmentation="none").check_aux(["barlow"])
    with pytest.raises(InputError, match=r"^views: must be 2 for BarlowTwins, but got 1$"):
        build_method(cut_in_two("barlow"), TrainSettings(), splits, 5)


# ---- Reconstruction ------------------------------------------------------------------------------


def test_reconstruction_of_what_the_block_is_given() -> None:
    """Layers 2 to 4 of a ResNet-18: from 16x32x32 to 64x8x8, at boundary 4 of 0 to 6."""
    network = boundary("recon", 4, first=2)
    assert isinstance(network, Reconstruction)
    features, inputs = waves(4, 64, 8, 8), waves(4, 16, 32, 32, step=0.2)
    loss, logits = learned_from(network, features, Seen(waves(4, 3, 32, 32), inputs))
    torch.testing.assert_close(logits, network.classifier(features.mean(dim=(2, 3))))
    large = F.interpolate(features, (32, 32), mode="bilinear", align_corners=True)
    missing = F.mse_loss(network.decoder(large), inputs) / inputs.var()
    height = 4 / 6
    expected = (1 - height / 2) * missing + (0.5 + height / 2) * F.cross_entropy(logits, LABELS)
    torch.testing.assert_close(loss, expected)


def test_reconstruction_of_what_is_large_in_half_precision() -> None:
    """Its squares are beyond half numbers."""
    network = boundary("recon", 4, first=2).float()
    features, inputs = waves(4, 64, 8, 8).float(), 300 * waves(4, 16, 32, 32, step=0.2).float()
    images = waves(4, 3, 32, 32).float()
    expected, _ = learned_from(network, features, Seen(images, inputs))
    with torch.autocast("cpu", torch.float16):
        loss, _ = learned_from(network, features, Seen(images, inputs.half()))
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)  # of half ones' 11 bits


# ---- A momentum copy -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["man", "man++"])
def test_the_copy_follows_the_layer_above(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", num_classes=10)
    network = build_auxiliary(name, auxiliary_context(backbone, 2, name))
    assert isinstance(network, MomentumAuxiliary)
    above = backbone.layers[3]
    before = {key: tensor.clone() for key, tensor in above.state_dict().items()}
    for key, tensor in network.following.state_dict().items():
        assert torch.equal(tensor, before[key])
    assert not any(w.requires_grad for w in network.following.parameters())
    features = waves(4, 32, 16, 16).float().requires_grad_()
    learned, followed = network.learning(features), network.following(features)
    scale = 1.0
    if network.scale is not None:
        with torch.no_grad():
            network.scale.fill_(0.5)
        scale = 0.5
    expected = network.classifier((learned + scale * followed).mean(dim=(2, 3)))
    torch.testing.assert_close(network(features), expected)
    network.local_loss(features, LABELS, F.cross_entropy)[0].backward()
    assert all(w.grad is None for w in above.parameters())
    with torch.no_grad():
        for weight in above.parameters():
            weight.add_(1.0)
    network.after_step()
    for key, weight in network.following.named_parameters():
        torch.testing.assert_close(weight, before[key] + 0.005)


# ---- In trainings --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(Task(train_limit=100), 0.25)


def cut_in_two(name: str) -> DecoupledNetwork:
    torch.manual_seed(0)
    backbone = build_backbone(
        "dgl-cnn4", num_classes=10, width_multiplier=0.0625, image_size=8, in_channels=1
    )
    return build_decoupled(backbone, Decoupling(backbone="dgl-cnn4", cuts=[1], aux=[name]))


@pytest.mark.parametrize("name", ["aug1", "infopro", "infopro-contrast", "recon", "man", "man++"])
@pytest.mark.parametrize("method", ["greedy", "sequential"])
def test_a_step_follows_what_the_teacher_says(name: str, method: str, splits: Splits) -> None:
    """By SGD without momentum: the gradient of its loss, shown the images as what the block is
    given; and the block above is none of its business."""
    settings = TrainSettings.model_validate(
        {"method": method, "momentum": 0, "weight_decay": 0, "lr": 0.1, "label_smoothing": 0}
    )
    network, other = cut_in_two(name), cut_in_two(name)
    if follows(name) and method == "sequential":
        for refused in (
            partial(settings.check_aux, [name]),
            partial(build_method, network, settings, splits, 5),
        ):
            with pytest.raises(InputError, match=r"^aux: must not follow the layer above for "):
                refused()
        return
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8) % 4
    trained = build_method(network, settings, splits, 5)
    trained.start_epoch(1)
    rate = trained.optimizers[0].param_groups[0]["lr"]
    losses = trained.step(images, labels)
    lower = other.blocks[0].train()
    torch.manual_seed(torch.initial_seed())
    seen = Seen(images, images)
    loss, _ = lower.local_loss(lower(images), labels, F.cross_entropy, seen)
    loss.backward()
    torch.testing.assert_close(losses[0], loss.detach())
    after = dict(network.blocks[0].named_parameters())
    for key, weight in lower.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(after[key], weight - rate * weight.grad)


def test_parts_of_a_batch_are_shown_their_own_images(splits: Splits) -> None:
    shown: list[tuple[Tensor, Tensor]] = []

    class Watching(Teacher):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(1, 10)

        def forward(self, features: Tensor) -> Tensor:
            logits: Tensor = self.classifier(features.flatten(1).mean(1, keepdim=True))
            return logits

        def teach(
            self, features: Tensor, labels: Tensor, criterion: Any, seen: Seen
        ) -> tuple[Tensor, Tensor]:
            shown.append((seen.images, seen.inputs))
            return self.local_loss(features, labels, criterion)

    network = cut_in_two("linear")
    network.blocks[0].classifier = Watching()
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6)
    method = build_method(network, TrainSettings(accumulate=3), splits, 5)
    method.start_epoch(1)
    method.step(images, labels)
    assert len(shown) == 3
    for (pixels, given), expected in zip(shown, images.chunk(3), strict=True):
        assert torch.equal(pixels, expected)
        assert torch.equal(given, expected)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"method": "asynchronous"}, "for the method asynchronous"),
        ({"parallel": "blocks"}, "where blocks are trained in parallel"),
    ],
)
def test_who_cannot_show_is_refused(changes: dict[str, Any], rule: str, splits: Splits) -> None:
    settings = TrainSettings.model_validate(changes)
    for name in ("infopro", "recon", "man"):
        assert looks(name)
        message = f"^aux: must not look beyond its boundary {rule}, but got '{name}'$"
        with pytest.raises(InputError, match=message):
            settings.check_aux([name])
    for name in ("aug2", "conv1"):
        assert not looks(name)
        settings.check_aux([name])
    if "method" in changes:
        with pytest.raises(InputError, match="must not look beyond its boundary"):
            build_method(cut_in_two("recon"), settings, splits, 5)


# ---- What cannot be ------------------------------------------------------------------------------


class Told(Teacher):
    """One that is shown images."""

    def __init__(self, context: AuxiliaryContext) -> None:
        super().__init__()
        self.classifier = nn.Linear(context.shape.channels, context.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits

    def teach(self, *shown: Any) -> Any:
        raise AssertionError("nobody asks")


class Twice(AuxiliaryNetwork):
    """One that needs each image twice."""

    views = 2

    def __init__(self, context: AuxiliaryContext) -> None:
        super().__init__()


@pytest.fixture(params=[Told, Twice])
def by_function(request: pytest.FixtureRequest) -> Iterator[type[AuxiliaryNetwork]]:
    register_auxiliary("by-function")(lambda context: request.param(context))
    yield request.param
    AUXILIARY.remove("by-function")


def test_what_needs_more_than_features_is_registered_as_a_class(
    by_function: type[AuxiliaryNetwork],
) -> None:
    """It is asked what it needs before it is made."""
    backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
    line = rf"^aux: by-function must be registered as a class, .* '{by_function.__name__}'$"
    with pytest.raises(InputError, match=line):
        build_auxiliary("by-function", auxiliary_context(backbone, 2, "by-function"))
    with torch.device("meta"):
        describe(build_backbone("vgg11", num_classes=10))  # lists others all the same


@pytest.mark.parametrize("name", ["conv1+imag", "conv1+image+overlap", "none+image"])
def test_a_name_that_is_none_is_shown_whole(name: str) -> None:
    rule = r"^aux: must be one of conv1, .* at most one of \+image, \+previous, \+overlap, but got "
    with pytest.raises(InputError, match=f"{rule}{re.escape(repr(name))}$"):
        check_auxiliary(name)


def test_one_that_reads_its_inputs_stands_in_many_places() -> None:
    backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
    found = places(backbone, 3, "recon")
    assert [each.around.inputs for each in found if each.around] == [
        backbone.images,
        *backbone.shapes[:3],
    ]
    assert len(places(backbone, 3, "infopro")) == len(places(backbone, 3, "conv1")) == 1
