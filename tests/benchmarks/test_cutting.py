"""The command that measures cut models: what it says, at a tiny size. No times."""

from __future__ import annotations

import json
import statistics
import sys

import pytest
from torchvision import models
from torchvision.models.resnet import BasicBlock

from benchmarks import cutting
from benchmarks.__main__ import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "cutting", *arguments])
    with pytest.raises(SystemExit) as exit:
        main()
    return exit.value.code


def test_each_model_plain_and_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(
        cutting.MODELS,
        "small",
        lambda size: models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10),
    )
    arguments = "--models small,vit-tiny --image-size 32 --batch-size 2 --repeats 3 --threads 1"
    assert run(monkeypatch, *arguments.split(), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["header"]["n"] == 3
    assert {name: of["layers"] for name, of in document["models"].items()} == {
        "small": 4,
        "vit-tiny": 12,
    }
    for of in document["models"].values():
        assert min(of["cut_s"], of["plan_s"]) > 0  # which is longer, another's work may change
        ratios = [cut / plain for cut, plain in zip(of["cut_steps_s"], of["plain_s"], strict=True)]
        assert of["ratio"] == statistics.median(ratios)
    assert [row[:2] for row in cutting.cutting_table("", document["models"]).rows] == [
        ["small", "4"],
        ["vit-tiny", "12"],
    ]


def test_unknown_models(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--models", "resnet50,resnet5") == 2
    assert capsys.readouterr().err == (
        "benchmarks: --models: must be of vit-tiny, convnext-tiny, resnet50, but got 'resnet5'\n"
    )
