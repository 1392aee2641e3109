"""The command line, run in this process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sedona_nni import command_line

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
QUICKSTART = str(EXPERIMENTS / "quickstart.yml")
VGG19 = str(EXPERIMENTS / "published" / "vgg19.json")
RESNET50 = str(EXPERIMENTS / "published" / "resnet50.json")


def sedona(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["sedona-nni", *arguments])
    with pytest.raises(SystemExit) as exit_:
        command_line.main()
    return int(exit_.value.code or 0)


def discretised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> Any:
    """Run ``discretise`` and return what it says as JSON."""
    assert sedona(monkeypatch, "discretise", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)
