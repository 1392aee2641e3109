"""A trained network in files that are read where this project is not installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from blocked_imports import run_blocking
from safetensors import safe_open
from shell import sedona
from torch import Tensor

from sedona_nni.data.sets import evaluation_batches, load_splits
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.models import build_backbone
from sedona_nni.task import Task
from sedona_nni.training.initial_network import initial_network
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.weights import MODEL_FILE, load_weights
from sedona_nni.trials.plain_model import trained_plain_model
from sedona_nni.trials.train import run_training

IMAGES = torch.rand(5, 3, 8, 8)
SETTINGS = TrainSettings(epochs=1, batch_size=20, lr=0.05)
SUPPORT = Path(__file__).parents[1] / "support"

# What a user without this project does with each form
READS = {
    "state-dict": """
        from safetensors.torch import load_file
        from small_model import SmallModel
        model = SmallModel(10)
        model.load_state_dict(load_file(path))
        logits = model.eval()(images)
    """,
    "torch-export": """
        model = torch.export.load(path).module()
        logits = torch.cat([model(images[:1]), model(images[1:])])
    """,
    "onnx": """
        import onnxruntime
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        parts = [session.run(["logits"], {"images": part.numpy()}) for part in images.split([1, 4])]
        logits = torch.cat([torch.from_numpy(part[0]) for part in parts])
    """,
}
SUFFIXES = {"state-dict": "safetensors", "torch-export": "pt2", "onnx": "onnx"}


def trained(model: str, folder: Path, **settings: Any) -> Tensor:
    """Train a model in two blocks and return its logits."""
    task = Task(backbone=model, width_multiplier=1, image_size=8, train_limit=60)
    cut = Decoupling(backbone=model, cuts=[0], aux=["linear"])
    run_training(task, cut, SETTINGS, directory=folder)
    network = initial_network(task, cut, SETTINGS.seed)
    load_weights(network, folder / MODEL_FILE)
    with torch.no_grad():
        logits: Tensor = network.eval()(IMAGES)
    return logits


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    torch.save((IMAGES, trained("small_model:build", folder / "d")), folder / "expected.pt")
    return folder


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("form", READS)
def test_it_is_read_without_this_project(
    directory: Path, form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / f"net.{SUFFIXES[form]}"
    arguments = ("export", str(directory / "d"), "--to", form, "--output", str(path))
    assert sedona(monkeypatch, *arguments) == 0
    setting = f"""
        import sys, textwrap, torch
        sys.path.append({str(SUPPORT)!r})
        path = {str(path)!r}
        images, expected = torch.load({str(directory / "expected.pt")!r})
    """
    check = """
        torch.testing.assert_close(logits, expected)  # other kernels add up in another order
        assert "sedona_nni" not in sys.modules
    """
    read = run_blocking(["sedona_nni"], f"{setting}{READS[form]}{check}")
    assert read.returncode == 0, read.stderr

    described = json.loads((tmp_path / f"{path.name}.json").read_text())
    splits = load_splits(Task(image_size=8, train_limit=60), 0.1)
    assert described["classes"] == [str(digit) for digit in range(10)]
    assert described["image_size"] == [8, 8]
    raw = splits.test.plain()
    batch, _ = next(iter(evaluation_batches(splits.test, 4, "cpu")))
    mean, std = (torch.tensor(described[name]).view(-1, 1, 1) for name in ("mean", "std"))
    pixels = (255 * (batch * std + mean)).round()
    torch.testing.assert_close((pixels / 255 - mean) / std, batch)  # it is their normalisation
    assert len(raw) == len(splits.test)


def test_what_it_says_of_itself(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory / "said.safetensors"
    arguments = ("--to", "state-dict", "--output", str(path))
    assert sedona(monkeypatch, "export", str(directory / "d"), *arguments) == 0
    with safe_open(path, "pt") as file:
        said = file.metadata()
    assert said["format"] == "pt"
    assert json.loads(said["classes"])[3] == "3"
    assert json.loads(said["image_size"]) == [8, 8]


def test_our_own_backbones_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = trained("dgl-cnn4", tmp_path / "d")
    path = tmp_path / "plain.safetensors"
    arguments = ("--to", "state-dict", "--output", str(path))
    assert sedona(monkeypatch, "export", str(tmp_path / "d"), *arguments) == 0
    plain = build_backbone("dgl-cnn4", num_classes=10, image_size=8, weights=path).eval()
    torch.testing.assert_close(plain(IMAGES), logits)


def test_directories_of_before_say_nothing_of_images(directory: Path) -> None:
    (directory / "d" / "images.json").rename(directory / "images.json")
    try:
        _, images = trained_plain_model(directory / "d")
    finally:
        (directory / "images.json").rename(directory / "d" / "images.json")
    assert images == trained_plain_model(directory / "d")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("d", "--to", "onnx"), "--output: must be given with --to onnx, a file .onnx"),
        (("d", "--to", "onnx", "--output", "n.pt2"), "--output: must end with .onnx, but got 'n.p"),
        (("--to", "onnx", "--output", "n.onnx"), "DIRECTORY: must be given with --to onnx, where"),
        (("d", "--to", "tf"), "--to: must be one of state-dict, torch-export, onnx, pipelining, t"),
        (
            ("d", "--to", "onnx", "--output", "n.onnx", "--num-classes", "3"),
            "--num-classes: must not be given with --to onnx, but got 3",
        ),
        (
            ("d", "--to", "pipelining", "--backbone", "vgg11", "--balanced", "2"),
            "DIRECTORY: must be given with --to state-dict, torch-export, onnx only, but got 'd'",
        ),
        (("nowhere", "--to", "onnx", "--output", "n.onnx"), "nowhere/run.json: cannot be read"),
        (("d", "--to", "onnx", "--output", "n.onnx"), "d: must hold a training that has finished"),
    ],
)
def test_refused(
    directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "run.json").write_bytes((directory / "d" / "run.json").read_bytes())
    assert sedona(monkeypatch, "export", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sedona-nni: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_onnx_is_an_extra(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    path = directory / "missing.onnx"
    arguments = ("export", str(directory / "d"), "--to", "onnx", "--output", str(path))
    assert sedona(monkeypatch, *arguments) == 2
    assert "needs ONNX: pip install '.[export]' in a checkout" in capsys.readouterr().err
    assert not path.exists()
