"""``sedona-nni export``: other pipelines take what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from shell import VGG19, sedona
from torch.distributed.pipelining import SplitPoint, pipeline

from sedona_nni.models import build_backbone


def _exported(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    assert sedona(monkeypatch, "export", *arguments, "--output", "split.json") == 0
    return json.loads(Path("split.json").read_text())


@pytest.mark.slow(reason="torch traces a network each")
@pytest.mark.parametrize(("backbone", "stages"), [("vgg11", 3), ("resnet18", 4)])
def test_torchs_pipeline_takes_it(
    backbone: str, stages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stages have the layers that torchtitan's form names, and compute the whole network."""
    wanted = ("--backbone", backbone, "--balanced", str(stages), "--width-multiplier", "0.125")
    split = _exported(monkeypatch, "--to", "pipelining", *wanted)
    named = _exported(monkeypatch, "--to", "torchtitan", *wanted)
    assert isinstance(split, dict)
    assert isinstance(named, list)
    assert len(named) == stages
    torch.manual_seed(0)
    network = build_backbone(backbone, num_classes=10, width_multiplier=0.125).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = network(images)
    spec = {name: SplitPoint[at] for name, at in split.items()}
    pipe = pipeline(network, (images,), split_spec=spec)
    assert pipe.num_stages == stages
    features = images
    for index, parts in enumerate(named):
        stage = pipe.get_stage_module(index)
        got = {name for name, _ in stage.named_parameters()}
        own = {f"{part}.{name}" for part in parts for name in _weights(network, part)}
        assert got == own != set()
        features = stage(features)
    torch.testing.assert_close(features, expected)  # traced operators may be others


def _weights(network: torch.nn.Module, part: str) -> list[str]:
    return [name for name, _ in network.get_submodule(part).named_parameters()]


def test_balanced_by_macs_or_as_published(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By MACs vgg11's first four layers are its first half, see ``sedona-nni describe``."""
    half = ("--to", "pipelining", "--backbone", "vgg11", "--balanced", "2")
    assert sedona(monkeypatch, "export", *half) == 0
    assert json.loads(capsys.readouterr().out) == {"layers.4": "BEGINNING"}
    published = ("--to", "torchtitan", "--decoupling", VGG19, "--num-blocks", "2")
    assert sedona(monkeypatch, "export", *published) == 0
    low, high = json.loads(capsys.readouterr().out)
    assert [*low, *high] == [*(f"layers.{layer}" for layer in range(16)), "head"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "deepspeed"], "onnx, pipelining, torchtitan, but got 'deepspeed'"),
        (["--to", "pipelining"], "--decoupling: must be given, or --balanced, and not both"),
        (["--to", "pipelining", "--balanced", "2"], "--backbone: must be given, one of vgg11"),
        (
            ["--to", "pipelining", "--balanced", "9", "--backbone", "vgg11"],
            "num_blocks: must be from 1 to the number of layers, 8, but got 9",
        ),
        (
            ["--to", "pipelining", "--balanced", "2", "--num-blocks", "2", "--backbone", "vgg11"],
            "--num-blocks: must not be given with --balanced, but got 2",
        ),
        (
            [
                "--to",
                "torchtitan",
                "--decoupling",
                "backprop",
                "--backbone",
                "vgg11",
                "--compute",
                "macs",
            ],
            "--compute: must be given with --balanced only, but got 'macs'",
        ),
        (
            ["--to", "torchtitan", "--decoupling", VGG19, "--output", "."],
            "--output: must be a file, but got '.'",
        ),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sedona(monkeypatch, "export", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("split.json").exists()
