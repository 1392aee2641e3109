"""`decouplings.memory` and `decouplings.dry_run`: bytes of parts, blocks and steps."""

from __future__ import annotations

import itertools

import pytest
import torch
from cut_backbones import TINY, tiny
from torch import Tensor, nn

from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupled import Block, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.decouplings.dry_run import LiveMemory, skeleton
from sedona_nni.decouplings.memory import (
    Memory,
    StepForm,
    compute_in_memory,
    memory_of_parts,
    peaks_of_step,
)
from sedona_nni.models import Backbone, FeatureShape, build_backbone
from sedona_nni.models.placement import place
from sedona_nni.teachers.auxiliary import auxiliary_context, build_auxiliary
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.step_form import step_form

SGD = step_form(TrainSettings(batch_size=4))


def backbone_of(name: str, size: int = 32, width: float = 0.25) -> Backbone:
    return build_backbone(name, num_classes=5, image_size=size, width_multiplier=width)


def kept_by(block: Block, features: Tensor, labels: Tensor, criterion: nn.Module) -> int:
    """Count in a real forward pass: the block's input unless images, output and what is saved."""
    own = {id(each.untyped_storage()) for each in (*block.parameters(), *block.buffers(), labels)}
    found = {}

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = block(features)
        loss, _ = block.local_loss(output, labels, criterion)
    for ends in (features, output):
        found[ends.untyped_storage().data_ptr()] = ends.untyped_storage()
    assert loss.requires_grad
    images = features.untyped_storage().nbytes() if features.shape[1] == 3 else 0
    return sum(each.nbytes() for each in found.values() if id(each) not in own) - images


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "dgl-cnn6", "dni-cnn"])
def test_every_block_keeps_the_sum_of_its_parts(name: str) -> None:
    """Exactly what a real forward pass saves, of every block with every auxiliary network."""
    torch.manual_seed(0)
    check_every_block(backbone_of(name), ["conv2", "mlp-sr", "cnn", "predsim"])


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize("name", ["vit without dropout", *TINY])
def test_every_block_of_a_cut_model_keeps_the_sum_of_its_parts(name: str) -> None:
    """Attention that fused kernels compute without its matrix, and dropout that they do not;
    tokens, channels that come last, norms of layers, and activations in place."""
    torch.manual_seed(0)
    backbone = tiny(name.removesuffix(" without dropout"))
    for part in backbone.modules() if name.endswith("dropout") else []:
        if isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
    check_every_block(backbone, ["linear", "conv2"])


def check_every_block(backbone: Backbone, names: list[str]) -> None:
    """Check what every block keeps with each of some auxiliary networks."""
    place(backbone, "cpu").train()
    parts = memory_of_parts(backbone, names, SGD)
    images = torch.randn(backbone.images.of_batch(4))
    maps = [images.contiguous(memory_format=torch.channels_last)]
    labels = torch.arange(4) % backbone.num_classes
    for layer in backbone.layers:
        maps.append(layer(maps[-1].detach()).detach())
    last = backbone.num_layers - 1
    for start, end in itertools.combinations(range(-1, backbone.num_layers), 2):
        decoupling = Decoupling(
            backbone=backbone.name,
            cuts=[cut for cut in (start, end) if 0 <= cut < last],
            aux=["conv2"] * sum(0 <= cut < last for cut in (start, end)),
        )
        for aux in ["head"] if end == last else names:
            classifier = backbone.head
            if end < last:
                decoupling.aux[-1] = aux
                classifier = build_auxiliary(aux, auxiliary_context(backbone, end))
            block = Block(backbone.layers[start + 1 : end + 1], classifier)
            place(block, "cpu").train()
            counted = parts.blocks(decoupling)[int(start >= 0)]
            assert counted.activations == kept_by(block, maps[start + 1], labels, SGD.criterion)
            assert counted.gradients == 4 * sum(p.numel() for p in block.parameters())
            assert counted.weights == counted.gradients + sum(
                each.numel() * each.element_size() for each in block.buffers()
            )


@pytest.mark.parametrize(
    ("changes", "copies"),
    [
        ({"momentum": 0}, 0),
        ({}, 1),
        ({"optimizer": "adam"}, 2),
        ({"optimizer": "adamw", "ema_decay": 0.9}, 3),
    ],
)
def test_state_of_optimizers(changes: dict[str, object], copies: int) -> None:
    """Momentum is one copy of the weights, Adam's moments two; averages are of buffers, too."""
    form = step_form(TrainSettings.model_validate({"batch_size": 4, **changes}))
    (whole,) = memory_of_parts(backbone_of("vgg11"), [], form).blocks(Decoupling(backbone="vgg11"))
    assert whole.optimizer == pytest.approx(copies * whole.gradients, rel=0.03)
    assert whole.optimizer >= copies * whole.gradients


def test_activations_grow_with_the_batch_and_shrink_in_16_bits() -> None:
    backbone = backbone_of("resnet18")
    uncut = Decoupling(backbone="resnet18")

    def kept(**changes: object) -> int:
        form = step_form(TrainSettings.model_validate({"batch_size": 8, **changes}))
        return memory_of_parts(backbone, [], form).blocks(uncut)[0].activations

    assert kept(batch_size=16) == pytest.approx(2 * kept(), rel=0.01)
    assert 0.5 * kept() < kept(amp="bf16") < 0.65 * kept()
    assert kept(amp="fp16") == kept(amp="bf16")


def test_parts_of_a_batch_and_checkpoints_keep_less() -> None:
    """Of one part at a time, but whole inputs and outputs; or of layers their inputs alone."""
    backbone = backbone_of("resnet18")
    cut = Decoupling(backbone="resnet18", cuts=[2], aux=["conv1"])

    def kept(**changes: object) -> list[int]:
        form = step_form(TrainSettings.model_validate({"batch_size": 8, **changes}))
        parts = memory_of_parts(backbone, ["conv1"], form)
        return [block.activations for block in parts.blocks(cut)]

    at_cut = 4 * 8 * 8 * 16 * 16  # 8 images, 8 channels of 16 x 16 pixels
    quarter, whole = kept(batch_size=2), kept()
    assert backbone.shapes[2] == FeatureShape(8, 16)
    top = 4 * 8 * 32 * 4 * 4
    assert kept(accumulate=4) == [
        quarter[0] + at_cut * 3 // 4,
        quarter[1] + (at_cut + top) * 3 // 4,
    ]
    checkpointed = kept(checkpoint="layers")
    inputs = [4 * 8 * shape.channels * shape.size**2 for shape in backbone.shapes]
    aux = memory_of_parts(backbone, ["conv1"], step_form(TrainSettings(batch_size=8))).auxiliary
    assert checkpointed[0] == sum(inputs[:3]) + aux[2]["conv1"][0].activations
    assert checkpointed[1] < whole[1] // 3


def test_as_compute_it_bounds_blocks() -> None:
    backbone = backbone_of("vgg11")
    compute = compute_in_memory(backbone, ["conv1", "mlp-sr"], SGD)
    parts = memory_of_parts(backbone, ["conv1", "mlp-sr"], SGD)
    for cuts, aux in (([], []), ([0], ["conv1"]), ([1, 3], ["mlp-sr", "none"])):
        decoupling = Decoupling(backbone="vgg11", cuts=cuts, aux=aux)
        assert compute.blocks(decoupling) == [b.total for b in parts.blocks(decoupling)]
    assert compute.unit == "bytes"
    assert compute.provenance["batch_size"] == 4
    again = Compute.model_validate_json(compute.model_dump_json())
    assert again == compute
    assert again.starts == parts.starts


def test_a_step_holds_and_passes() -> None:
    """By hand: one linear layer of 3 weights to 2 classes, on 1000 images of 3 numbers."""
    with torch.device("meta"):
        block = Block([nn.Flatten()], nn.Linear(3, 2, bias=False))
        network = build_decoupled(backbone_of("vgg11"), Decoupling(backbone="vgg11"))
    network.blocks = nn.ModuleList([block])  # type: ignore[assignment]
    form = step_form(TrainSettings(batch_size=1000, label_smoothing=0))
    peaks = peaks_of_step(network, FeatureShape(3, 1), form)
    weights = 4 * 6
    assert peaks.held == [2 * weights]  # and momentum
    # log-probabilities, logits, and the gradients of both, (1000, 2); and a few single numbers
    assert peaks.passing[0] == pytest.approx(4 * 4 * 2000, abs=200)
    assert peaks.one_process == peaks.ranks[0] == peaks.held[0] + peaks.passing[0]
    assert peaks.travelling == [0]


def test_features_travel_beside_a_step() -> None:
    """The next batch to a block, and two of its own that the one above has not received."""
    decoupling = Decoupling(backbone="vgg11", cuts=[0, 3], aux=["conv1", "conv1"])
    with torch.device("meta"):
        network = build_decoupled(backbone_of("vgg11"), decoupling)
    peaks = peaks_of_step(network, FeatureShape(3, 32), SGD)
    lower, upper = (
        4 * 4 * shape.channels * shape.size**2
        for shape in (backbone_of("vgg11").shapes[cut] for cut in decoupling.cuts)
    )
    assert peaks.travelling == [2 * lower, lower + 2 * upper, upper]
    assert peaks.busy_ranks[1] == peaks.ranks[1] + lower + 2 * upper


def test_memory_that_is_alive() -> None:
    with LiveMemory() as live:
        a = torch.empty(100, device="meta")
        b = a.view(10, 10) + 1
        del a
        b += 1
        c = b * 2
    assert (live.now, live.peak) == (800, 800)
    del b, c
    assert live.now == 0


def test_a_skeleton_leaves_the_original_alone() -> None:
    backbone = backbone_of("vgg11").eval()
    before = [each.clone() for each in (*backbone.parameters(), *backbone.buffers())]
    copy = skeleton(backbone)
    copy.train()
    assert {each.device.type for each in copy.parameters()} == {"meta"}
    peaks_of_step(build_decoupled(backbone, Decoupling(backbone="vgg11")), FeatureShape(3, 32), SGD)
    assert not backbone.training
    after = [*backbone.parameters(), *backbone.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_sums_of_memory() -> None:
    both = Memory(1, 2, 3, 4) + Memory(activations=10)
    assert both == Memory(1, 2, 3, 14)
    assert (both.held, both.total) == (4, 20)
    assert isinstance(SGD, StepForm)
