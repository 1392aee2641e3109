"""``sedona-nni describe``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from shell import EXPERIMENTS, VGG19, sedona

from sedona_nni.decouplings.decoupling import Decoupling


@pytest.mark.slow(reason="every command imports PyTorch")
def test_describe_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ResNet-152 as torchvision has it, and the shares of its published decoupling."""
    published = str(EXPERIMENTS / "published" / "resnet152.json")
    chosen = ("--decoupling", published, "--num-blocks", "4")
    form = ("--width-multiplier", "4", "--image-size", "224", "--num-classes", "1000")
    assert sedona(monkeypatch, "describe", "--backbone", "resnet152", *form, "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["parameters"] == {
        "trunk": 60_192_808 - 2_049_000,
        "head": 2_049_000,
        "total": 60_192_808,
    }
    assert len(whole["layers"]) == 50
    assert len(whole["boundaries"]) == 49
    assert len(whole["blocks"]) == 1
    assert sedona(monkeypatch, "describe", *chosen, *form, "--json") == 0
    cut = json.loads(capsys.readouterr().out)
    assert cut["parameters"] == whole["parameters"]
    layers = [block["last_layer"] - block["first_layer"] + 1 for block in cut["blocks"]]
    assert layers == [11, 2, 4, 33]
    shares = torch.tensor([block["share"] for block in cut["blocks"]]).cumsum(0)
    assert shares[:3].tolist() == pytest.approx([0.233, 0.285, 0.361], abs=5e-4)
    assert cut["ideal_speedup"] == pytest.approx(1 / (1 - 0.361), abs=5e-3)


@pytest.mark.slow(reason="every command imports PyTorch")
def test_describe_says_what_the_stem_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resnet = ("describe", "--backbone", "resnet18", "--image-size", "64")
    assert sedona(monkeypatch, *resnet) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[1] == "stem: published, 7x7 convolution of stride 2"
    assert sedona(monkeypatch, *resnet, "--stem", "torchvision", "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["stem"] == "torchvision, 7x7 convolution of stride 2, max-pool"
    assert described["layers"][0]["size"] == 16
    assert sedona(monkeypatch, "describe", "--backbone", "vgg11", "--stem", "torchvision") == 2
    assert "stem: must be published for vgg11, but got 'torchvision'" in capsys.readouterr().err


@pytest.mark.slow(reason="every command imports PyTorch")
def test_describe_in_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    decoupling = Decoupling(backbone="vgg19", cuts=[5, 12, 13], aux=["conv4", "conv1", "conv1"])
    decoupling.save(Path("d.json"))
    chosen = (
        ["--decoupling", "d.json"],
        ["--backbone", "vgg19", "--decoupling", VGG19, "--num-blocks", "4"],
    )
    shown = []
    for options in chosen:
        assert sedona(monkeypatch, "describe", *options) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    lines = [line.split() for line in shown[0].splitlines()]
    for row in (
        "trunk 1,254,256 25,214,976",
        "head 1,191,946 1,189,888",
        "total 2,446,202 26,404,864",
        "8 conv4_1 128x4x4 73,984 1,179,648",
        "boundary: 16x32x32 32x16x16 64x8x8 128x4x4 128x2x2",
        "conv4 10.7k / 410.1k 16.5k / 277.2k 31.9k / 210.8k 78.2k / 177.6k 56.8k / 66.2k",
        "cut after layer 5 (conv4), 12 (conv1) and 13 (conv1)",
        "1 6-12 738,816 13,565,952 51.4% conv1 27,050 38,176",
        "3 14-15 1,487,370 2,369,536 9.0% (head) 0 0",
        "largest block: 51.4% of the MACs, so an ideal speed-up of 1.95 "
        "(1.94 with auxiliary networks)",
    ):
        assert row.split() in lines, row


@pytest.mark.slow(reason="every command imports PyTorch")
def test_boundaries_of_a_model_from_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their names, what crosses, and the share of MACs and the memory below."""
    asked = ("--model", "torchvision:convnext_tiny", "--image-size", "64", "--num-classes", "10")
    assert sedona(monkeypatch, "describe", *asked, "--json") == 0
    described = json.loads(capsys.readouterr().out)
    places = described["boundaries"]
    assert len(places) == len(described["layers"]) - 1 == 17
    assert places[3]["name"] == "features.3.0"
    assert (places[3]["shape"], places[3]["layout"]) == ([192, 8, 8], "map")
    for rising in (
        [place["share"] for place in places],
        [place["memory"]["weights"] for place in places],
        [place["memory"]["activations"] for place in places],
    ):
        assert rising == sorted(set(rising))
    macs = [layer["macs"] for layer in described["layers"]]
    assert places[3]["share"] == pytest.approx(sum(macs[:4]) / described["macs"]["total"])
    below = sum(layer["parameters"] for layer in described["layers"][:4])
    assert places[3]["memory"]["gradients"] == 4 * below
    (whole,) = described["blocks"]
    assert places[-1]["memory"]["total"] < whole["memory"]["total"]


def test_describe_says_what_a_search_takes_of_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("describe", "--backbone", "dgl-cnn4", "--image-size", "16", "--batch-size", "8")
    assert sedona(monkeypatch, *asked, "--search", "--json") == 0
    told = json.loads(capsys.readouterr().out)["search"]
    assert 0 < told["meta_step_on_cpu"] <= 1.2 * told["meta_step_on_gpu"]
    assert (told["batch_size"], told["memory_size"], told["aux"][-1]) == (8, 50, "conv4")
    assert sedona(monkeypatch, *asked, "--search") == 0
    words = capsys.readouterr().out
    assert "a search with conv1, conv2, conv3, conv4 at every boundary: a meta-step (5 steps" in (
        words
    )
    assert f" {told['snapshots'] / 2**20:,.0f} MiB of main memory" in words
    assert sedona(monkeypatch, *asked) == 0
    assert "meta-step" not in capsys.readouterr().out


def test_describe_says_what_blocks_take_of_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Balanced as the rule says, and as large as the batch; heavy auxiliary networks are told."""
    asked = ("--backbone", "vgg11", "--batch-size", "32", "--json", "--decoupling")

    def described(rule: str) -> tuple[Any, str]:
        assert sedona(monkeypatch, "describe", *asked, rule) == 0
        shown = capsys.readouterr()
        return json.loads(shown.out), shown.err

    balanced, quiet = described("memory-balanced:2:conv1")
    uniform, _ = described("uniform:2:conv1")
    assert quiet == ""
    for shown in (balanced, uniform):
        totals = [block["memory"]["total"] for block in shown["blocks"]]
        parts = ("weights", "gradients", "optimizer", "activations")
        assert totals == [sum(b["memory"][name] for name in parts) for b in shown["blocks"]]
        assert shown["memory"]["batch_size"] == 32
        peaks = [block["memory"]["peak"] for block in shown["blocks"]]
        assert shown["memory"]["largest_rank"] == max(peaks) < shown["memory"]["one_process"]
    largest = [max(b["memory"]["total"] for b in shown["blocks"]) for shown in (balanced, uniform)]
    assert largest[0] < largest[1]
    assert sedona(monkeypatch, "describe", "--backbone", "resnet50", "--batch-size", "2") == 0
    assert "a step of 2 images: " in capsys.readouterr().out
    _, told = described("uniform:4:mlp")
    heavy = ("--backbone", "resnet50", "--decoupling", "uniform:4:mlp-sr", "--batch-size", "2")
    assert told == ""
    assert sedona(monkeypatch, "describe", *heavy) == 0
    assert "auxiliary networks have 7.6 million parameters, the backbone 1.5" in (
        capsys.readouterr().err
    )
