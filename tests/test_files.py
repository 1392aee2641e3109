"""`sedona_nni.files`: disks that are full, folders that are none, files that are damaged."""

from __future__ import annotations

import errno
import os
import pickle
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from full_disk import full_disk
from safetensors.torch import load_file, save_file

from sedona_nni.errors import InputError
from sedona_nni.files import check_output_folder, read_tensors, reading, write_atomically

TENSORS = {"weights": torch.arange(100_000.0)}


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("x" * 400_000),
        lambda path: torch.save(TENSORS, path),
        lambda path: save_file(TENSORS, path),
    ],
    ids=["text", "torch", "safetensors"],
)
@pytest.mark.parametrize("size", [0, 100_000])
def test_a_full_disk_is_one_line_and_leaves_the_old_file(
    write: Callable[[Path], object], size: int, tmp_path: Path
) -> None:
    path = tmp_path / "kept"
    path.write_text("old")
    with full_disk(size), pytest.raises(InputError) as raised:
        write_atomically(path, write)
    assert str(raised.value) == f"{path}: cannot be written (File too large)"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, write)
    assert path.stat().st_size >= 400_000


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        write_atomically(tmp_path / "new", fail)
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "new", tmp_path / "folder"):
        with pytest.raises(InputError, match=f"^{re.escape(str(path))}: cannot be written"):
            write_atomically(path, lambda temporary: temporary.write_text("new"))


def test_folders_to_write_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("kept")
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "new" / "newer", Path("new"), Path()):
        check_output_folder("directory", folder)
    for name in ("file", "file/below", "file/far/below"):
        with pytest.raises(InputError, match=rf"^directory: must be a folder.* but got '{name}'$"):
            check_output_folder("directory", Path(name))

    def refuse(**options: Any) -> Any:  # permissions do not stop root
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(InputError, match=r"directory: must be .*: Read-only file system\)"):
        check_output_folder("directory", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


class RunsCode:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_damaged_files_of_tensors(tmp_path: Path) -> None:
    path = tmp_path / "tensors.pt"
    torch.save(TENSORS, path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (b"", whole[:1000], whole[:-1000], bytes(flipped), b"text", pickle.dumps([])):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"tensors\.pt: is not a file of tensors") as raised:
            read_tensors(path)
        assert "\n" not in str(raised.value)
    path.write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(InputError, match="alone; any other is refused, as it could run code"):
        read_tensors(path)


def test_readers_end_in_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    expected = rf"^{re.escape(str(path))}: .*; remove it$"
    for content in (None, b"", b"text"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=expected), reading(path, "remove it"):
            load_file(path)
    expected = r"cannot be read \(KeyError\); remove it$"
    with pytest.raises(InputError, match=expected), reading(path, "remove it"):
        raise KeyError
    with pytest.raises(InputError, match=r"^a rule$"), reading(path):
        raise InputError("a rule")
