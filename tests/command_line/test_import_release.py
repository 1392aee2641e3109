"""``sedona-nni import-release``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from shell import sedona

from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.searches.sedona.result import SearchResult


def published() -> tuple[torch.Tensor, torch.Tensor]:
    """Values of the shape that the release has for VGG-19, cuts at 5, 12 and 13."""
    alpha = torch.stack([torch.linspace(-3, -2, 15), torch.linspace(3, 2, 15)], dim=1)
    alpha[[5, 12, 13]] = torch.tensor([2.0, -2.0])
    beta = torch.zeros(15, 4)
    beta[:, 0] = 1
    beta[5, 3] = 2
    return alpha, beta


def test_import_of_the_authors_files(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alpha, beta = published()
    torch.save(torch.nn.Parameter(alpha), "alpha.pt")
    torch.save(beta, "beta.pt")
    both = {"alpha": alpha.tolist(), "beta": beta.tolist()}
    Path("both.json").write_text(json.dumps(both))
    expected = "cut after layer 5 (conv4), 12 (conv1) and 13 (conv1)\n"
    for files in (["alpha.pt", "beta.pt"], ["both.json"]):
        command = ["import-release", *files, "--backbone", "vgg19", "--num-blocks", "4"]
        assert sedona(monkeypatch, *command, "--output", "decoupling.json") == 0
        assert capsys.readouterr().out == expected
        assert sedona(monkeypatch, *command, "--json") == 0
        assert json.loads(capsys.readouterr().out)["cuts"] == [5, 12, 13]
        assert Decoupling.load(Path("decoupling.json")).aux == ["conv4", "conv1", "conv1"]
        everything = command[:-2]
        assert sedona(monkeypatch, *everything, "--output", "result.json") == 0
        assert "boundary 5: a_loc 0.9820\n" in capsys.readouterr().out
        assert SearchResult.load(Path("result.json")).alpha == [(a, b) for a, b in alpha.tolist()]
        assert sedona(monkeypatch, *everything, "--num-blocks", "0") == 0
        assert capsys.readouterr().out == expected


def test_import_runs_no_code_of_a_file(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(_Trap(), "alpha.pt")
    torch.save(published()[1], "beta.pt")
    assert sedona(monkeypatch, "import-release", "alpha.pt", "beta.pt", "--backbone", "vgg19") == 2
    assert not Path("trapped").exists()


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (Path("trapped"),)  # type: ignore[return-value]


def test_import_for_another_backbone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alpha, beta = published()
    torch.save(alpha, "alpha.pt")
    torch.save(beta, "beta.pt")
    assert sedona(monkeypatch, "import-release", "alpha.pt", "beta.pt", "--backbone", "vgg11") == 2
    assert "alpha: must have a row per boundary of vgg11, but got 15" in capsys.readouterr().err
