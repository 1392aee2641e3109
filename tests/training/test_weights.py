"""`training.weights`: what a training leaves, and the plain network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_model import SmallModel

from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import Backbone, as_backbone, build_backbone
from sedona_nni.models.placement import place
from sedona_nni.searches.sedona.relaxed_training import build_relaxed
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.training.weights import export, load_weights, save_weights

CUT = Decoupling(backbone="dgl-cnn4", cuts=[0, 1], aux=["conv1", "mlp"])


def backbone(seed: int) -> Backbone:
    torch.manual_seed(seed)
    return build_backbone("dgl-cnn4", num_classes=3, width_multiplier=0.1, image_size=8)


def test_the_plain_network_computes_the_same_and_holds_nothing_else(tmp_path: Path) -> None:
    network = place(build_decoupled(backbone(0), CUT), "cpu")
    images = torch.randn(4, 3, 8, 8)
    network(images)  # in training mode: batch norm's statistics move
    export(network, tmp_path / "plain.safetensors")

    weights = load_file(tmp_path / "plain.safetensors")
    plain = backbone(1)
    assert set(weights) == set(plain.state_dict())
    plain.load_state_dict(weights)
    assert torch.equal(place(plain, "cpu").eval()(images), network.eval()(images))


@pytest.mark.parametrize("named", [True, False])
def test_a_model_that_was_cut_has_its_own_names(tmp_path: Path, named: bool) -> None:
    """Also of what computes nothing; the model loads it strictly."""
    torch.manual_seed(0)
    model = SmallModel(3)
    model.units[0].norm.bias = model.units[0].norm.weight  # one weight of two names
    cut = (
        build_backbone("small_model:build", num_classes=3, image_size=8)
        if named
        else as_backbone(model, torch.zeros(2, 3, 8, 8))
    )
    network = build_decoupled(cut, Decoupling(backbone=cut.name, cuts=[1], aux=["linear"]))
    images = torch.rand(4, 3, 8, 8)
    network(images)
    export(network, tmp_path / "plain.safetensors")
    again = SmallModel(3)
    weights = load_file(tmp_path / "plain.safetensors")
    again.load_state_dict(weights)
    assert "unused.weight" in weights
    assert torch.equal(again.eval()(images), network.eval()(images))


def test_a_relaxed_network_is_not_cut(tmp_path: Path) -> None:
    found = SearchResult(
        backbone="dgl-cnn4",
        dataset="digits",
        aux_choices=["conv1"],
        alpha=[(0, 0)] * 3,
        beta=[[0]] * 3,
    )
    with pytest.raises(InputError, match="must be a decoupled network, but got a relaxed one"):
        export(build_relaxed(backbone(0), found), tmp_path / "plain.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_weights_are_loaded_into_the_network_that_they_are_of(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    network = build_decoupled(backbone(0), CUT)
    save_weights(network.state_dict(), path)
    again = build_decoupled(backbone(1), CUT)
    load_weights(again, path)
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)

    other = build_decoupled(backbone(1), Decoupling(backbone="dgl-cnn4"))
    for wrong in (path, tmp_path / "missing.safetensors"):
        with pytest.raises(InputError, match=rf"^{wrong}: cannot be read"):
            load_weights(other, wrong)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(number: float, tmp_path: Path) -> None:
    network = build_decoupled(backbone(0), CUT)
    weights = network.state_dict()
    name = next(iter(weights))
    weights[name].flatten()[0] = number
    save_weights(weights, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=rf"x.safetensors: {name} must have finite numbers$"):
        load_weights(network, tmp_path / "x.safetensors")
