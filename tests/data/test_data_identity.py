"""What is gone on with or tested again says what its images were, not only where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from sedona_nni.data.identity import (
    DataIdentity,
    fingerprint_of_arrays,
    fingerprint_of_files,
)
from sedona_nni.data.sets import load_splits
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.stage import CHECKPOINT_FILE
from sedona_nni.trials.run import Run
from sedona_nni.trials.search import run_search
from sedona_nni.trials.train import evaluate_saved, run_training

SETTINGS = TrainSettings(epochs=2, batch_size=8, lr=0.02)
BACKPROP = Decoupling(backbone="vgg11")


def write_pets(folder: Path, seed: int = 0, classes: tuple[str, ...] = ("cat", "dog")) -> Task:
    """Write 10 pictures of each class; return a task that learns from them."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / "train" / name).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "train" / name / f"{number}.bmp")
    return Task(width_multiplier=0.0625, dataset="imagefolder", data_dir=str(folder), image_size=32)


def identity(task: Task) -> DataIdentity:
    found = load_splits(task, 0.2, workers=0).identity
    assert found is not None
    return found


def train(task: Task, directory: Path, **options: Any) -> dict[str, Any]:
    return run_training(task, BACKPROP, SETTINGS, workers=0, directory=directory, **options)


class Killed(Exception):
    pass


def die(numbers: dict[str, float]) -> None:
    raise Killed


def test_what_images_are_does_not_depend_on_where_they_are_or_how_many_are_used(
    tmp_path: Path,
) -> None:
    task = write_pets(tmp_path / "pets")
    known = identity(task)
    assert known.classes == ("cat", "dog")
    assert known.images == {"train": 13, "validation": 3, "test": 4}
    shutil.copytree(tmp_path / "pets", tmp_path / "moved")
    (tmp_path / "moved" / "train").rename(tmp_path / "moved" / "Training")
    moved = task.model_copy(update={"data_dir": str(tmp_path / "moved"), "image_size": 64})
    assert identity(moved) == known
    fewer = task.model_copy(update={"train_limit": 10, "split_seed": 1})
    assert identity(fewer).fingerprint == known.fingerprint


def swap(folder: Path) -> None:
    """Two pictures of equal size change places."""
    a, b = folder / "cat" / "0.bmp", folder / "dog" / "0.bmp"
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        swap,
        lambda folder: (folder / "cat" / "0.bmp").unlink(),
        lambda folder: (folder / "cat" / "0.bmp").rename(folder / "cat" / "x.bmp"),
        lambda folder: (folder / "cat").rename(folder / "zebra"),
        lambda folder: shutil.copy(folder / "cat" / "0.bmp", folder / "cat" / "x.bmp"),
    ],
)
def test_other_images_have_another_fingerprint(
    tmp_path: Path, change: Callable[[Path], Any]
) -> None:
    task = write_pets(tmp_path)
    before = identity(task).fingerprint
    change(tmp_path / "train")
    assert identity(task).fingerprint != before


def test_sets_in_memory() -> None:
    """The fingerprint of digits is the same everywhere, whatever size they are scaled to."""
    digits = identity(Task())
    assert digits.classes == tuple("0123456789")
    assert identity(Task(image_size=16, train_limit=100)).fingerprint == digits.fingerprint
    assert digits.fingerprint.startswith("c75f6fb652f9408f")
    labels, images = np.arange(3), np.zeros((3, 1, 2, 2), dtype=np.uint8)
    known = fingerprint_of_arrays(labels, images)
    images[1, 0, 0, 0] = 1
    assert fingerprint_of_arrays(labels, images) != known
    assert fingerprint_of_arrays(labels[::-1], images) != fingerprint_of_arrays(labels, images)


def test_large_sets_are_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All names, and as many sizes and contents as limits allow."""
    files = [("train", "a", str(tmp_path / f"{number:02}.jpg")) for number in range(12)]
    for _, _, path in files:
        Path(path).write_bytes(bytes(100))
    monkeypatch.setattr("sedona_nni.data.identity.MOST_SIZES", 6)
    monkeypatch.setattr("sedona_nni.data.identity.MOST_BYTES_READ", 300)
    read: list[str] = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or original(path))
    known = fingerprint_of_files(files)
    assert read == ["00.jpg", "04.jpg", "08.jpg"]
    assert fingerprint_of_files(files[::-1]) == known
    assert fingerprint_of_files(files[:-1]) != known
    (tmp_path / "02.jpg").write_bytes(bytes(101))
    assert fingerprint_of_files(files) != known
    (tmp_path / "02.jpg").unlink()
    with pytest.raises(InputError, match=r"02\.jpg: cannot be read \(No such file"):
        fingerprint_of_files(files)


def test_a_model_says_what_its_outputs_are(tmp_path: Path) -> None:
    task = write_pets(tmp_path / "pets")
    results = train(task, tmp_path / "d")
    with safe_open(tmp_path / "d" / "model.safetensors", "pt") as model:
        metadata = model.metadata()
    assert json.loads(metadata["classes"]) == ["cat", "dog"]
    assert metadata["fingerprint"] == results["data"] == identity(task).fingerprint
    run = json.loads((tmp_path / "d" / "run.json").read_text())
    assert run["data"]["classes"] == ["cat", "dog"]
    assert run["data"]["images"] == {"train": 15, "validation": 1, "test": 4}
    assert run["data"]["fingerprint"] == results["data"]


def test_a_test_with_other_classes_is_refused(tmp_path: Path) -> None:
    """The same pictures, but `cat` is called `zebra`: output 0 would count as dog."""
    task = write_pets(tmp_path / "pets")
    train(task, tmp_path / "d")
    same = evaluate_saved(tmp_path / "d", workers=0)
    assert same["same_data"] is True
    shutil.copytree(tmp_path / "pets", tmp_path / "renamed")
    (tmp_path / "renamed" / "train" / "cat").rename(tmp_path / "renamed" / "train" / "zebra")
    with pytest.raises(InputError) as error:
        evaluate_saved(tmp_path / "d", workers=0, data_dir=str(tmp_path / "renamed"))
    assert str(error.value) == (
        f"data_dir: the classes must be those that {tmp_path / 'd'} was trained to tell apart, "
        "cat, dog, but they lack cat and add zebra"
    )
    write_pets(tmp_path / "more", classes=("cat", "cow", "dog"))
    with pytest.raises(InputError, match="but they add cow"):
        evaluate_saved(tmp_path / "d", workers=0, data_dir=str(tmp_path / "more"))

    shutil.move(tmp_path / "pets", tmp_path / "elsewhere")
    moved = evaluate_saved(tmp_path / "d", workers=0, data_dir=str(tmp_path / "elsewhere"))
    assert moved == same
    write_pets(tmp_path / "new", seed=1)
    new = evaluate_saved(tmp_path / "d", workers=0, data_dir=str(tmp_path / "new"))
    assert new["same_data"] is False


def test_a_class_without_training_images_is_told(tmp_path: Path) -> None:
    """The fifth that is held out to test has its only picture."""
    task = write_pets(tmp_path / "pets", classes=("cat", "cow", "dog"))
    for picture in sorted((tmp_path / "pets" / "train" / "cow").iterdir())[1:]:
        picture.unlink()
    contents = load_splits(task, 0.2, workers=0).contents
    assert contents is not None
    assert contents.counts["train"][1] == 0
    assert "no cow to learn from" in contents.left_out


def test_a_smaller_folder_is_enough_to_test_on(tmp_path: Path) -> None:
    """What was learned from is not needed again, nor as many images of it."""
    task = write_pets(tmp_path / "pets").model_copy(update={"train_limit": 16})
    train(task, tmp_path / "d")
    shutil.copytree(tmp_path / "pets", tmp_path / "few")
    for name in ("cat", "dog"):
        for picture in sorted((tmp_path / "few" / "train" / name).iterdir())[4:]:
            picture.unlink()
    few = evaluate_saved(tmp_path / "d", workers=0, data_dir=str(tmp_path / "few"))
    assert few["same_data"] is False


def probe(task: Task, directory: Path, **options: Any) -> dict[str, Any]:
    how: dict[str, Any] = {"aux": ["conv1"], "train": SETTINGS, "workers": 0, **options}
    return run_search("probe", task, ProbeSettings(), directory=directory, **how)


def search(task: Task, directory: Path, **options: Any) -> dict[str, Any]:
    settings = SearchSettings(
        pretrain_steps=2, meta_steps=2, inner_steps=1, batch_size=4, validation_batch_size=4
    )
    how: dict[str, Any] = {"aux": ["conv1"], "workers": 0, **options}
    return run_search("sedona", task, settings, directory=directory, **how)


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize("work", [train, probe, search])
@pytest.mark.parametrize("finished", [False, True])
def test_nothing_goes_on_with_other_images(
    tmp_path: Path, work: Callable[..., dict[str, Any]], finished: bool
) -> None:
    task = write_pets(tmp_path / "pets")
    if finished:
        expected = work(task, tmp_path / "d")
    else:
        with pytest.raises(Killed):
            work(task, tmp_path / "d", report=die)
    swap(tmp_path / "pets" / "train")
    with pytest.raises(InputError) as error:
        work(task, tmp_path / "d")
    counts = "10 train, 6 validation" if work is search else "15 train, 1 validation"
    assert str(error.value) == (
        f"data_dir: the images must be those that {tmp_path / 'd'} began with "
        f"({counts}, 4 test), but they are others; please name a new directory"
    )
    swap(tmp_path / "pets" / "train")
    shutil.move(tmp_path / "pets", tmp_path / "moved")  # where they are does not matter
    moved = task.model_copy(update={"data_dir": str(tmp_path / "moved")})
    results = work(moved, tmp_path / "d")
    if finished:
        assert results == expected


@pytest.mark.slow(reason="reads and trains")
def test_directories_of_before_are_gone_on_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They do not say which images they began with."""
    task = write_pets(tmp_path / "pets")
    with pytest.raises(Killed):
        train(task, tmp_path / "d", report=die)
    path = tmp_path / "d" / "run.json"
    run = json.loads(path.read_text())
    del run["data"]
    path.write_text(json.dumps(run))
    state = torch.load(tmp_path / "d" / CHECKPOINT_FILE, weights_only=True)
    del state["data"]
    torch.save(state, tmp_path / "d" / CHECKPOINT_FILE)
    train(task, tmp_path / "d")
    assert f"{path} does not say which images it began with" in caplog.text
    path.write_text(json.dumps(run))
    assert "same_data" not in evaluate_saved(tmp_path / "d", workers=0)


def test_a_checkpoint_alone_knows_its_images(tmp_path: Path) -> None:
    """Of a training without a trial around it, which would have a run.json."""
    task = write_pets(tmp_path / "pets")
    with pytest.raises(Killed):
        train(task, tmp_path / "d", report=die)
    (tmp_path / "d" / "run.json").unlink()
    swap(tmp_path / "pets" / "train")
    with pytest.raises(InputError, match=r"checkpoint\.pt was made with other images"):
        train(task, tmp_path / "d")


def test_another_task_is_refused_as_such(tmp_path: Path) -> None:
    task = write_pets(tmp_path / "pets")
    run = Run(task=task, data=identity(task))
    run.save(tmp_path / "run.json")
    other = Run(task=task.model_copy(update={"activation": "leakyrelu"}), data=run.data)
    with pytest.raises(InputError, match="holds another thing, please name a new one"):
        other.check_goes_on(tmp_path, "thing")
