"""The command ``python -m benchmarks``: what it prints, and mistakes."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks.__main__ import main


class TestCommand:
    def run(self, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
        assert isinstance(exit.value.code, int)
        return exit.value.code

    @pytest.mark.slow(reason="two processes measure")
    def test_json(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = "relaxed-step --backbone vgg11 --batch-size 2 --width-multiplier 0.125 --aux conv1 "
        line += "--repeats 1 --threads 1 --against naive --json"
        assert self.run(monkeypatch, *line.split()) == 0
        document = json.loads(capsys.readouterr().out)
        head = document["header"]
        assert head["command"] == f"python -m benchmarks {line}"
        assert head["n"] == 1
        assert head["versions"]["torch"] == torch.__version__.partition("+")[0]
        for side in ("ours", "naive"):
            assert document[side]["median_s"] == document[side]["values_s"][0] > 0
            assert document[side]["peak_mib"] > document[side]["baseline_mib"] > 0
        assert document["ratio"] == document["naive"]["median_s"] / document["ours"]["median_s"]
        assert document["setting"]["backbone"] == "vgg11"
        assert document["threads"] == 1

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["meta-step", "--backbone", "vgg12"], "must be one of"),
            (["relaxed-step", "--aux", "conv0"], "must be one of"),
            (["meta-step", "--batch-size", "1"], "batch_size"),
            (["meta-step", "--against", "higher"], "must be one of naive, release"),
            (["meta-step", "--against", "release"], "must be a clone"),
            (["meta-step", "--record", "../x"], "must be lower-case letters"),
            (["scaling", "--over", "depth", "--values", "1"], "must be one of inner-steps"),
            (["scaling", "--over", "threads", "--values", "0"], "must be whole numbers from 1"),
            (["parallel", "--backbone", "vgg12"], "must be one of"),
            (["parallel", "--cuts", "best"], "must be uniform, published, balanced"),
            (["parallel", "--cuts", "1,2"], "must be K-1 = 1 of them"),
            (["parallel", "--cuts", "99"], "must be boundaries of vgg19"),
            (["parallel", "--num-blocks", "17"], "must be from 1 to the number of layers, 16"),
            (["parallel", "--cuts", "published", "--backbone", "vgg11"], "published"),
            (["parallel", "--batch-size", "30"], "accumulate must divide batch_size, 30"),
            (["parallel", "--microbatches", "4,x"], "must be whole numbers by commas"),
            (["parallel", "--sides", "horovod", "--cuts", "5"], "must be of backprop"),
            (["parallel", "--link", "fast", "--cuts", "5"], "must be a rate like 1gbit"),
            (["parallel", "--delay-ms", "1", "--cuts", "5"], "must not be given without --link"),
            (["memory", "--image-size", "4"], "image_size"),
            (["simulate", "pyproject.json"], "pyproject.json"),
        ],
    )
    def test_mistakes(
        self,
        arguments: list[str],
        message: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert self.run(monkeypatch, *arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
