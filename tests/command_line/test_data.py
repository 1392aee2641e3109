"""``sedona-nni data``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from shell import sedona

from sedona_nni.data.sets import dataset_names


def test_data_sets(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them, or one in full."""
    assert sedona(monkeypatch, "data", "--json", "--data-dir", str(elsewhere)) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert [*found] == dataset_names()
    assert [name for name, each in found.items() if each["is_there"]] == ["digits"]
    assert found["svhn"]["looked_for"] == f"train_32x32.mat and test_32x32.mat in {elsewhere}"
    assert sedona(monkeypatch, "data") == 0
    shown = capsys.readouterr().out
    assert "svhn: house numbers, 32 x 32 pixels, by default 32 x 32 pixels; needs a data" in shown
    assert "to get it: download http://ufldl.stanford.edu/housenumbers/train_32x32.mat" in shown

    for part, name, count in (("train", "cat", 5), ("train", "dog", 7), ("valid", "cat", 3)):
        folder = elsewhere / "pets" / part / name
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("L", (8, 8), 9 * number).save(folder / f"{number}.png")
    (elsewhere / "pets" / "train" / "cat" / "notes.txt").touch()
    command = ("data", "imagefolder", "--data-dir", "pets")
    assert sedona(monkeypatch, *command, "--json") == 0
    contents = json.loads(capsys.readouterr().out)["contents"]
    assert contents["counts"] == {"train": [5, 6], "validation": [0, 1], "test": [3, 0]}
    assert contents["left_out"] == ["train/cat/notes.txt", "no dog in valid/"]
    assert sedona(monkeypatch, *command) == 0
    shown = capsys.readouterr().out
    assert "2 classes (cat, dog); images: 11 train (train/), 1 validate (of train/)" in shown
    assert " dog    6      1           0" in shown
    assert "left out: no dog in valid/" in shown


def test_bad_images(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Left out on demand, of a set that is named and has files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(elsewhere / "cache"))
    for name in ("cat", "dog"):
        (elsewhere / "pets" / "train" / name).mkdir(parents=True)
        for number in range(9):
            path = elsewhere / "pets" / "train" / name / f"{number}.png"
            Image.new("L", (8, 8), 9 * number).save(path)
    (elsewhere / "pets" / "train" / "dog" / "5.png").write_bytes(b"no image")
    command = ("data", "imagefolder", "--data-dir", "pets", "--skip-bad-images")
    assert sedona(monkeypatch, *command, "--json") == 0
    contents = json.loads(capsys.readouterr().out)["contents"]
    assert sum(map(sum, contents["counts"].values())) == 17
    (left_out,) = contents["left_out"]
    assert left_out.startswith(
        "1 picture that cannot be read: pets/train/dog/5.png is not a readable image (cannot"
    )
    for arguments, complaint in (
        ((), "--skip-bad-images: must be given with the name of a data set"),
        (("digits",), "--skip-bad-images: on_bad_image: must be fail for a data set whose images"),
    ):
        assert sedona(monkeypatch, "data", *arguments, "--skip-bad-images") == 2
        assert complaint in capsys.readouterr().err
