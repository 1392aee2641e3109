"""`decouplings.compute` and `decouplings.layer_time`: what parts cost, counted and measured."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sedona_nni.decouplings import layer_time
from sedona_nni.decouplings.compute import Compute, compute_in_macs, load_compute
from sedona_nni.decouplings.cost import block_costs, summarise_blocks
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import Backbone, build_backbone
from sedona_nni.teachers.auxiliary import AuxiliaryContext, AuxiliaryNetwork, build_auxiliary

BY_HAND: dict[str, Any] = {
    "backbone": "mine",
    "unit": "macs",
    "layers": [3, 4, 1, 2],
    "auxiliary": [{"a": 1, "b": 5}, {"a": 2, "b": 0}, {"a": 9, "b": 1}],
}


def cut(cuts: list[int], aux: list[str]) -> Decoupling:
    return Decoupling(backbone="mine", cuts=cuts, aux=aux)


def test_blocks_by_hand() -> None:
    compute = Compute(**BY_HAND)
    assert compute.total == 10
    assert compute.blocks(cut([], [])) == [10]
    assert compute.blocks(cut([0], ["b"])) == [3 + 5, 7]
    assert compute.blocks(cut([1, 2], ["a", "b"])) == [7 + 2, 1 + 1, 2]
    assert compute.largest_share(cut([1, 2], ["a", "b"])) == 0.9
    assert compute.blocks(cut([0], ["none"])) == [3, 7]  # a cut without auxiliary network


def test_macs_are_those_of_the_blocks() -> None:
    with torch.device("meta"):
        backbone = build_backbone("resnet18", num_classes=7, image_size=64, width_multiplier=0.5)
    compute = compute_in_macs(backbone, ["conv1", "conv4", "mlp-sr"])
    decoupling = Decoupling(backbone="resnet18", cuts=[0, 2, 5], aux=["conv4", "mlp-sr", "conv1"])
    costs = block_costs(backbone, decoupling)
    assert compute.blocks(decoupling) == [b.backbone.macs + b.auxiliary.macs for b in costs]
    speedup = summarise_blocks(costs)["ideal_speedup_with_auxiliary"]
    assert 1 / compute.largest_share(decoupling) == pytest.approx(speedup)
    assert compute.provenance["num_classes"] == 7
    assert compute.provenance["stem"] == "published, 7x7 convolution of stride 2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [1, 2, 3]}, "auxiliary must have one entry per boundary, .*3 for 3 layers"),
        ({"layers": [0, 0, 0, 0]}, "layers must not all be free"),
        ({"layers": [1, -2, 3, 4]}, "layers.1"),
        ({"unit": "hours"}, "unit"),
    ],
)
def test_documents_that_break_a_rule(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**BY_HAND, **change}))
    with pytest.raises(InputError, match=f"c.json.*{message}"):
        load_compute(path)


def test_what_it_is_not_about() -> None:
    compute = Compute(**BY_HAND)
    with pytest.raises(InputError, match=r"compute: must include cnn .*\['a', 'b'\]"):
        compute.blocks(cut([1], ["cnn"]))
    with pytest.raises(InputError, match="compute: must be that of vgg11, but got 'mine'"):
        compute.blocks(Decoupling(backbone="vgg11"))


def test_read_from_its_file_or_from_a_decoupling_that_carries_it(tmp_path: Path) -> None:
    compute = Compute(**{**BY_HAND, "unit": "ns", "provenance": {"batch_size": 3}})
    compute.save(tmp_path / "c.json")
    assert load_compute(tmp_path / "c.json") == compute
    provenance = {"compute": compute.as_provenance}
    Decoupling(backbone="mine", provenance=provenance).save(tmp_path / "d.json")
    assert load_compute(tmp_path / "d.json") == compute
    Decoupling(backbone="mine", provenance={"compute": "macs"}).save(tmp_path / "e.json")
    with pytest.raises(InputError, match=r"e\.json"):
        load_compute(tmp_path / "e.json")


class Slow(nn.Module):
    """Takes 60 ms longer."""

    def __init__(self, slow: nn.Module) -> None:
        super().__init__()
        self.slow = slow

    def forward(self, features: Tensor) -> Tensor:
        time.sleep(0.06)
        out: Tensor = self.slow(features)
        return out


def small(name: str = "vgg11") -> Backbone:
    return build_backbone(name, num_classes=3, width_multiplier=0.125)


def measure(backbone: Backbone, names: list[str]) -> Compute:
    device = torch.device("cpu")
    return layer_time.compute_in_time(backbone, names, device=device, batch_size=4)


@pytest.mark.slow(reason="builds large networks")
def test_time_is_that_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow layer, a slow head and a slow auxiliary network are found where they are."""

    def build(name: str, context: AuxiliaryContext) -> AuxiliaryNetwork:
        network = build_auxiliary(name, context)
        if name == "mlp" and context.shape.size == 8:
            before = network.forward
            network.forward = lambda features: (  # type: ignore[method-assign]
                time.sleep(0.06) or before(features)  # type: ignore[func-returns-value]
            )
        return network

    monkeypatch.setattr(layer_time, "build_auxiliary", build)
    backbone = small()
    backbone.layers[4] = Slow(backbone.layers[4])
    backbone.head = Slow(backbone.head)
    compute = measure(backbone, ["mlp", "conv1"])
    assert [ns > 60e6 for ns in compute.layers] == [i in (4, 7) for i in range(8)]
    slow = [{name for name, ns in costs.items() if ns > 60e6} for costs in compute.auxiliary]
    at_8 = [shape.size == 8 for shape in backbone.boundaries]
    assert any(at_8)
    assert slow == [{"mlp"} if here else set() for here in at_8]


def test_time_is_stated_with_how_it_was_measured_and_disturbs_nothing() -> None:
    backbone = small("resnet18")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    compute = measure(backbone, ["conv1"])
    assert torch.equal(torch.rand(1), expected)
    assert all(weight.grad is None for weight in backbone.parameters())
    assert (compute.unit, compute.backbone) == ("ns", "resnet18")
    assert compute.provenance["batch_size"] == 4
    assert compute.provenance["device"] == "cpu"
    assert compute.provenance["width_multiplier"] == 0.125
    assert min(compute.layers) > 0


def test_equal_parts_share_a_measurement() -> None:
    compute = measure(small("resnet34"), ["conv1"])
    assert compute.layers[1] == compute.layers[2]  # two of the first stage
    assert compute.auxiliary[0] == compute.auxiliary[1] == compute.auxiliary[2]
