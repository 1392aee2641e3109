"""Costs: counted by hand on small modules, the published shares, peak memory of known steps."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cut_backbones import TINY, tiny
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sedona_nni.decouplings.balance import balanced_decoupling
from sedona_nni.decouplings.choice import discretise
from sedona_nni.decouplings.compute import Compute, compute_in_macs
from sedona_nni.decouplings.cost import (
    Cost,
    block_costs,
    count_macs,
    count_parameters,
    describe,
    head_cost,
    heavy_auxiliary,
    layer_costs,
    peak_memory_mib,
    summarise_blocks,
)
from sedona_nni.decouplings.decoupling import Decoupling, uniform_cuts
from sedona_nni.decouplings.memory import compute_in_memory, describe_memory
from sedona_nni.decouplings.rules import decoupling_by_rule
from sedona_nni.errors import InputError
from sedona_nni.models import Backbone, FeatureShape, build_backbone
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.teachers.auxiliary import (
    AUXILIARY,
    AuxiliaryContext,
    AuxiliaryNetwork,
    Teacher,
    auxiliary_names,
    register_auxiliary,
)
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.step_form import step_form

PUBLISHED = Path(__file__).parents[2] / "experiments" / "published"
CPU = torch.device("cpu")
MIB = 2**20 // 4  # float32 numbers in one MiB


def on_meta(name: str, **settings: object) -> Backbone:
    with torch.device("meta"):
        return build_backbone(name, **{"num_classes": 10, **settings})  # type: ignore[arg-type]


def test_parameters_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.Linear(8, 2))
    assert count_parameters(module) == (8 * 3 * 25 + 8) + (8 + 8) + (8 * 2 + 2)


def test_macs_by_hand() -> None:
    module = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, stride=2),  # 6 -> 3: 9 pixels of 8 filters of 4*9
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),  # 3 -> 1: 8 filters of 9
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    assert count_macs(module, FeatureShape(4, 6)) == 9 * 8 * 4 * 9 + 8 * 9 + 8 * 5


def test_macs_of_attention_by_hand() -> None:
    """ViT of D = 4, M = 6 on N = 2 x 2 patches of 4 x 4 pixels and a class token: projections of
    tokens to queries, keys, values and back, their products, and a perceptron, in 3 layers."""
    backbone = tiny("vit")
    d, m, n = 4, 6, 2 * 2 + 1
    layer = n * 4 * d**2 + 2 * n**2 * d + 2 * n * d * m
    patches = 4 * d * 3 * 4**2
    counted = sum(cost.macs for cost in layer_costs(backbone)) + head_cost(backbone).macs
    assert counted == patches + 3 * layer + d * backbone.num_classes


@pytest.mark.parametrize("name", [*TINY])
def test_layers_and_head_of_a_cut_model_have_its_macs(name: str) -> None:
    """As torch counts them, of a batch, on the device that shows the products of attention."""
    build, size = TINY[name]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build()(torch.empty(2, 3, size, size))
    backbone = tiny(name)
    counted = sum(cost.macs for cost in layer_costs(backbone)) + head_cost(backbone).macs
    assert 2 * 2 * counted == counter.get_total_flops()


def test_counting_leaves_the_module_alone() -> None:
    module = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Dropout()).double()
    module[2].eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert count_macs(module, FeatureShape(2, 1)) == 4
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert [part.training for part in module] == [True, True, False]
    pickle.dumps(module)  # which a hook that is left would not let


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize(
    ("name", "settings", "trunk", "head"),
    [
        ("vgg19", {}, 25_214_976, 1_189_888),
        # 11.51 G for the whole network at the usual size
        (
            "resnet152",
            {"width_multiplier": 4, "image_size": 224, "num_classes": 1000},
            11_511_578_624,
            2048 * 1000,
        ),
    ],
)
def test_macs_of_backbones(name: str, settings: dict[str, int], trunk: int, head: int) -> None:
    backbone = on_meta(name, **settings)
    assert sum(cost.macs for cost in layer_costs(backbone)) == trunk
    assert head_cost(backbone).macs == head
    image = FeatureShape(3, backbone.image_size)
    assert count_macs(backbone, image) == trunk + head


def test_macs_of_the_layers_of_vgg19() -> None:
    macs = [cost.macs for cost in layer_costs(on_meta("vgg19"))]
    wide, narrow, small = 2_359_296, 1_179_648, 589_824
    assert macs == [
        *(442_368, wide),
        *(narrow, wide),
        *(narrow, wide, wide, wide),
        *(narrow, wide, wide, wide),
        *(small, small, small, small),
    ]


# Published decouplings at K=4 on CIFAR-10: cumulative share of the MACs at the cuts, the largest
# block's share, the ideal speed-up, auxiliary parameters and MACs; and with uniform cuts and mlp-sr
SHARES = [
    ("vgg19", [0.374, 0.888, 0.910], 0.51, 1.95, (86_030, 0.29), (370_526, 0.45)),
    ("resnet50", [0.633, 0.688, 0.742], 0.63, 1.58, (696_414, 7.5), (7_572_766, 9.5)),
    ("resnet101", [0.223, 0.356, 0.385], 0.62, 1.63, (542_462, 7.8), (10_090_014, 11.8)),
    ("resnet152", [0.227, 0.279, 0.355], 0.65, 1.55, (542_462, 7.8), (10_090_014, 11.8)),
]


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize(("name", "cumulative", "largest", "speedup", "aux", "mlp_sr"), SHARES)
def test_blocks_of_the_published_decouplings(
    name: str,
    cumulative: list[float],
    largest: float,
    speedup: float,
    aux: tuple[int, float],
    mlp_sr: tuple[int, float],
) -> None:
    backbone = on_meta(name)
    decoupling = discretise(SearchResult.load(PUBLISHED / f"{name}.json"), 4)
    described = describe(backbone, decoupling, aux_names=[])
    shares = [block["share"] for block in described["blocks"]]
    assert [sum(shares[:k]) for k in (1, 2, 3)] == pytest.approx(cumulative, abs=0.0006)
    assert described["largest_share"] == max(shares) == pytest.approx(largest, abs=0.006)
    assert described["ideal_speedup"] == pytest.approx(speedup, abs=0.006)

    uniform = Decoupling(
        backbone=name, cuts=uniform_cuts(backbone.num_layers, 4), aux=["mlp-sr"] * 3
    )
    for cuts, (parameters, million_macs) in ((decoupling, aux), (uniform, mlp_sr)):
        blocks = block_costs(backbone, cuts)
        assert sum(block.auxiliary.parameters for block in blocks) == parameters
        macs = sum(block.auxiliary.macs for block in blocks)
        assert macs / 1e6 == pytest.approx(million_macs, abs=0.051)


def test_blocks_add_up_to_the_backbone() -> None:
    backbone = on_meta("resnet18")
    blocks = block_costs(
        backbone, Decoupling(backbone="resnet18", cuts=[0, 4], aux=["conv1", "cnn"])
    )
    assert [(block.first_layer, block.last_layer, block.aux) for block in blocks] == [
        (0, 0, "conv1"),
        (1, 4, "cnn"),
        (5, 7, None),
    ]
    assert blocks[-1].auxiliary == Cost(0, 0)
    whole = sum((block.backbone for block in blocks), Cost(0, 0))
    assert whole == Cost(700_176 + 1_290, count_macs(backbone, FeatureShape(3, 32)))


def test_summary_by_hand() -> None:
    """MACs 2 + 1, 3 + 2, 5: total 10; largest 5; with auxiliary networks 3, 5, 5."""
    from sedona_nni.decouplings.cost import BlockCost

    blocks = [
        BlockCost(0, 0, Cost(0, 2), "a", Cost(0, 1)),
        BlockCost(1, 1, Cost(0, 4), "a", Cost(0, 4)),
        BlockCost(2, 3, Cost(0, 6), None, Cost(0, 0)),
    ]
    assert summarise_blocks(blocks) == {
        "largest_share": 0.5,
        "ideal_speedup": 2.0,
        "ideal_speedup_with_auxiliary": 1.5,
    }


@pytest.mark.slow(reason="builds large networks")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "vgg19"}, "decoupling.backbone: must be vgg11, but got 'vgg19'"),
        (
            {"cuts": [7], "aux": ["conv1"]},
            r"cuts: must be boundaries of vgg11, 0 to 6, but got \[7\]",
        ),
        ({"cuts": [3], "aux": ["conv"]}, "aux: must be one of conv1, .*, but got 'conv'"),
    ],
)
def test_a_decoupling_that_does_not_fit(fields: dict[str, object], message: str) -> None:
    decoupling = Decoupling(**{"backbone": "vgg11", **fields})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"^{message}$"):
        describe(on_meta("vgg11"), decoupling)


class TestDescribe:
    @pytest.mark.slow(reason="builds large networks")
    def test_of_a_backbone(self) -> None:
        described = describe(on_meta("vgg19"))
        assert json.loads(json.dumps(described)) == described
        assert described["parameters"] == {
            "trunk": 1_254_256,
            "head": 1_191_946,
            "total": 2_446_202,
        }
        assert described["macs"]["total"] == 26_404_864
        assert described["layers"][8] == {
            "index": 8,
            "name": "conv4_1",
            "shape": [128, 4, 4],
            "layout": "map",
            "width": 128,
            "size": 4,
            "parameters": 9 * 64 * 128 + 256,
            "macs": 1_179_648,
        }
        assert len(described["layers"]) == 16
        assert [boundary["index"] for boundary in described["boundaries"]] == list(range(15))
        boundary = described["boundaries"][8]
        assert (boundary["width"], boundary["size"]) == (128, 4)
        assert boundary["name"] == "conv4_1"
        below = sum(layer["macs"] for layer in described["layers"][:9])
        assert boundary["share"] == below / 26_404_864
        assert list(boundary["auxiliary"]) == auxiliary_names()
        assert boundary["auxiliary"]["conv4"] == {"parameters": 78_186, "macs": 177_600}
        assert described["decoupling"] == Decoupling(backbone="vgg19").model_dump()
        (block,) = described["blocks"]
        assert (block["first_layer"], block["last_layer"], block["share"]) == (0, 15, 1)
        assert block["parameters"] == described["parameters"]["total"]
        assert described["ideal_speedup"] == 1

    def test_of_a_decoupling(self) -> None:
        decoupling = Decoupling(backbone="vgg19", cuts=[4], aux=["conv3"])
        described = describe(on_meta("vgg19"), decoupling, aux_names=["conv1"])
        assert json.loads(json.dumps(described)) == described
        assert described["decoupling"] == decoupling.model_dump()
        first = 442_368 + 1_179_648 * 2 + 2_359_296 * 2
        assert described["blocks"][0] == {
            "index": 0,
            "first_layer": 0,
            "last_layer": 4,
            "parameters": sum(layer["parameters"] for layer in described["layers"][:5]),
            "macs": first,
            "share": first / 26_404_864,
            "aux": "conv3",
            "auxiliary": {"parameters": 26_026, "macs": 188_928},
            "kind": None,
            "beginning": {"parameters": 0, "macs": 0},
        }
        assert described["blocks"][1]["macs"] == 26_404_864 - first
        assert described["blocks"][1]["aux"] is None
        assert list(described["boundaries"][0]["auxiliary"]) == ["conv1"]

    def test_unknown_auxiliary_network(self) -> None:
        with pytest.raises(InputError, match="aux: must be one of"):
            describe(on_meta("vgg11"), aux_names=["conv"])


class TestPeakMemory:
    def test_allocations_by_hand(self) -> None:
        """4, +8 = 12, -4 = 8, +6 = 14, -8 = 6, +1 = 7 MiB: the peak is 14."""

        def step() -> None:
            a = torch.empty(4 * MIB)
            b = torch.empty(8 * MIB)
            del a
            c = torch.empty(6 * MIB)
            del b
            d = torch.empty(1 * MIB)
            del c, d

        assert peak_memory_mib(step, CPU) == 14.0
        assert peak_memory_mib(step, CPU) == 14.0  # and nothing is left of the first measurement

    def test_what_was_there_before_does_not_count(self) -> None:
        before = torch.ones(16 * MIB)
        assert peak_memory_mib(lambda: before.mul_(2), CPU) < 0.01
        assert peak_memory_mib(lambda: before[:MIB] + 1, CPU) == pytest.approx(1, abs=0.01)
        assert peak_memory_mib(lambda: None, CPU) == 0

    def test_memory_that_only_the_backward_pass_needs(self) -> None:
        """x -> tanh -> tanh -> sum, 2 MiB each.

        Forward keeps y1 and y2 (saved): 4. Backward: the gradient of the sum is an expanded
        number; dy1 is made while y1, y2 are alive: 6; then y2 is let go and dx is made: 6.
        """
        x = torch.randn(2 * MIB, requires_grad=True)

        def step() -> tuple[Tensor, ...]:
            return torch.autograd.grad(x.tanh().tanh().sum(), x)

        assert peak_memory_mib(step, CPU) == pytest.approx(6, abs=0.01)

    def test_detached_blocks_need_less_than_back_propagation(self) -> None:
        layers = [nn.Sequential(nn.Linear(256, 256), nn.Tanh()) for _ in range(8)]
        images = torch.randn(1024, 256)  # 1 MiB

        def step(cut: bool) -> None:
            features = images
            for layer in layers:
                features = layer(features)
                if cut:
                    features.sum().backward()
                    features = features.detach()
            if not cut:
                features.sum().backward()

        step(False)  # the weights' gradients are there from now on
        whole = peak_memory_mib(lambda: step(False), CPU)
        cut = peak_memory_mib(lambda: step(True), CPU)
        assert cut < whole / 2

    def test_it_is_silent(self, capfd: pytest.CaptureFixture[str]) -> None:
        peak_memory_mib(lambda: torch.ones(1), CPU)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.gpu
    def test_on_cuda(self) -> None:
        device = torch.device("cuda")
        before = torch.ones(16 * MIB, device=device)
        assert peak_memory_mib(lambda: before[: 4 * MIB] * 2 + 1, device) == 8.0


def test_heavy_auxiliary_networks_are_told() -> None:
    """Of ResNet-50, three of DGL's outweigh the backbone at any width, three light ones do not."""
    for width in (1, 4):
        with torch.device("meta"):
            backbone = build_backbone("resnet50", num_classes=10, width_multiplier=width)
        light, heavy = (
            heavy_auxiliary(backbone, decoupling_by_rule(f"uniform:4:{aux}", "resnet50", 16))
            for aux in ("conv1", "mlp-sr")
        )
        assert light is None
        assert heavy is not None
    assert heavy.startswith(
        "the auxiliary networks have 120.5 million parameters, the backbone 23.5"
    )


@pytest.mark.parametrize("aux", ["recon", "infopro", "aug1", "conv1", "recon+overlap"])
@pytest.mark.parametrize("cuts", [[3], [0, 4], [1, 2, 6]])
def test_computes_are_those_of_the_blocks(aux: str, cuts: list[int]) -> None:
    """Also of a teacher that costs otherwise where the block below begins elsewhere."""
    backbone = on_meta("vgg11", width_multiplier=0.5)
    decoupling = Decoupling(backbone="vgg11", cuts=cuts, aux=[aux] * len(cuts))
    compute = compute_in_macs(backbone, [aux])
    blocks = block_costs(backbone, decoupling)
    assert compute.blocks(decoupling) == [block.training.macs for block in blocks]
    assert compute == Compute.model_validate_json(compute.model_dump_json())
    promised = summarise_blocks(blocks)["ideal_speedup_with_auxiliary"]
    assert 1 / compute.largest_share(decoupling) == pytest.approx(promised, rel=1e-12)


@pytest.fixture
def curious() -> Iterator[None]:
    """An auxiliary network that asks for a number."""

    @register_auxiliary("curious")
    class Curious(AuxiliaryNetwork):
        def __init__(self, context: AuxiliaryContext) -> None:
            super().__init__()
            self.classifier = nn.Linear(context.shape.channels, context.num_classes)

        def forward(self, features: Tensor) -> Tensor:
            logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
            return logits * float(features.mean())

    yield
    AUXILIARY.remove("curious")


def test_what_asks_for_values_is_named_and_not_left_out(curious: None) -> None:
    """It could stand nowhere else, either."""
    with pytest.raises(InputError, match=r"^Curious: must not ask for the values of tensors, as"):
        compute_in_macs(on_meta("vgg11"), ["conv1", "curious"])


def test_other_errors_of_a_network_stay_what_they_are() -> None:
    class Wrong(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features + torch.ones(6, device="cpu")

    with pytest.raises(RuntimeError, match="meta"):
        count_macs(Wrong(), FeatureShape(4, 6))


@pytest.fixture
def not_at_3() -> Iterator[None]:
    """A teacher that cannot stand at boundary 3."""

    @register_auxiliary("not-at-3")
    class NotAt3(Teacher):
        def __init__(self, context: AuxiliaryContext) -> None:
            super().__init__()
            assert context.around is not None
            if context.around.boundary == 3:
                raise InputError.rule("aux", "must not stand at boundary 3", "not-at-3")
            self.classifier = nn.Linear(context.shape.channels, context.num_classes)

        def forward(self, features: Tensor) -> Tensor:
            logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
            return logits

    yield
    AUXILIARY.remove("not-at-3")


def test_what_cannot_stand_somewhere_costs_something_elsewhere(not_at_3: None) -> None:
    backbone = on_meta("vgg11")
    elsewhere, there = (
        Decoupling(backbone="vgg11", cuts=[cut], aux=["not-at-3"]) for cut in (4, 3)
    )
    compute = compute_in_macs(backbone, ["not-at-3"])
    assert [i for i, here in enumerate(compute.auxiliary) if not here] == [3]
    assert compute.blocks(elsewhere) == [b.training.macs for b in block_costs(backbone, elsewhere)]
    form = step_form(TrainSettings())
    memory = compute_in_memory(backbone, ["not-at-3"], form)
    described = describe_memory(backbone, elsewhere, form)
    assert memory.blocks(elsewhere) == [block["total"] for block in described["blocks"]]
    for costs in (compute, memory):
        rule = r"^compute: must include not-at-3 at boundary 3, if it can stand there, but got "
        with pytest.raises(InputError, match=rule):
            costs.blocks(there)
        with pytest.raises(InputError, match=rule):
            balanced_decoupling(costs, 2, "not-at-3")
    with pytest.raises(InputError, match=r"^aux: must not stand at boundary 3, "):
        block_costs(backbone, there)


@pytest.mark.parametrize(
    ("aux", "parallel"), [("conv1", True), ("aug1", True), ("infopro", False), ("man", False)]
)
def test_who_can_be_trained_in_parallel(aux: str, parallel: bool) -> None:
    decoupling = Decoupling(backbone="vgg11", cuts=[3], aux=[aux])
    assert describe(on_meta("vgg11"), decoupling, aux_names=[])["parallel"] is parallel
