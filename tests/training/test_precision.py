"""What a GPU is told to make of float32; the flags are there without one, too."""

from __future__ import annotations

import contextlib
import random

import pytest
import torch
from relaxed_reference import random_backbone

from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.search import Search
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.training.precision import float32_products


def flags() -> list[str]:
    kinds = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    return [kind.fp32_precision for kind in kinds]


def test_what_was_said_before_holds_again() -> None:
    before = flags()
    with float32_products(tf32=True):
        assert flags() == ["tf32", "tf32"]
        with contextlib.suppress(KeyError), float32_products(tf32=False):
            assert flags() == ["ieee", "ieee"]
            raise KeyError
        assert flags() == ["tf32", "tf32"]
    assert flags() == before


@pytest.mark.parametrize(("tf32", "said"), [(False, "ieee"), (True, "tf32")])
def test_a_search_is_exact_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tf32: bool, said: str
) -> None:
    """In every step of pre-training, meta-step, and choice by perturbation; not in between."""
    monkeypatch.setattr("sedona_nni.searches.sedona.search.check_layers", lambda problem: None)
    torch.manual_seed(0)
    network = RelaxedNetwork(random_backbone(random.Random(0), 3), ["conv1"])
    seen: list[list[str]] = []
    network.backbone.layers[0].register_forward_pre_hook(lambda *_: seen.append(flags()))
    settings = SearchSettings(
        pretrain_steps=1, meta_steps=1, inner_steps=1, perturbation_steps=1, batch_size=4, tf32=tf32
    )
    search = Search(network, settings)
    batch = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    before = flags()
    while not search.done:
        seen.clear()
        search.advance(iter([batch] * 4), iter([batch] * 4))
        assert seen
        assert seen == [[said] * 2] * len(seen)
        assert flags() == before
