"""`sedona_nni.files`: disks that are full, folders that are none, files that are damaged."""

from __future__ import annotations

import errno
import os
import pickle
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from full_disk import full_disk
from safetensors.torch import load_file, save_file

from sedona_nni.errors import InputError
from sedona_nni.files import (
    append_line,
    check_no_links,
    check_output_file,
    check_output_folder,
    read_json,
    read_tensors,
    reading,
    write_atomically,
)

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


@pytest.mark.parametrize("before", ["", "one\n", "one\nhal", "hal"])
def test_half_a_line_of_a_writer_that_died_goes(before: str, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    if before:
        path.write_text(before)
    for line in ("two", "dré"):
        append_line(path, line)
    whole = "one\n" if before.startswith("one") else ""
    assert path.read_text(encoding="utf-8") == f"{whole}two\ndré\n"


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


@pytest.mark.parametrize("read", [read_json, read_tensors, lambda path: reading(path).__enter__()])
def test_what_may_never_end_is_not_read(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("fifo", "link"):
        line = re.escape(f"{tmp_path / name}: cannot be opened (is a pipe, a socket or a device)")
        with pytest.raises(InputError, match=line):
            read(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "\ufeff{}", ""],
    ids=["lists", "objects", "number", "mark", "empty"],
)
def test_json_that_is_none_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"x.json: is not valid JSON \(.{5,200}\)$"):
        read_json(tmp_path / "x.json")


def test_tensors_that_would_fill_a_disk_are_not_unpacked(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as old:
        parts = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name, part in parts.items():
            new.writestr(name, part)
    with pytest.raises(InputError, match="packed, which torch"):
        read_tensors(tmp_path / "x.pt")


def test_links_where_files_are_ours(tmp_path: Path) -> None:
    inner = tmp_path / "kept" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    check_no_links(tmp_path / "kept")
    check_no_links(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (inner / "link").symlink_to("nowhere")
    for path, named in (
        (tmp_path / "link", tmp_path / "link"),
        (tmp_path / "kept", inner / "link"),
    ):
        with pytest.raises(InputError, match=f"{named}: must not be a link"):
            check_no_links(path)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\nb\x1b[31m", r"'a\nb\x1b[31m'"),
        ("\u202e", r"'\u202e'"),
        ("\udcff", r"'\udcff'"),
        (10**5000, "a number of 5001 digits"),
        ([[0] * 1000] * 1000, r"[[0, 0, "),
        ("x" * 10_000, "x...x"),
    ],
    ids=["control", "direction", "surrogate", "number", "lists", "long"],
)
def test_a_message_is_one_line_whatever_the_value(value: object, shown: str) -> None:
    message = str(InputError.rule("field", "must be another", value))
    assert message.startswith("field: must be another, but got ")
    assert shown in message
    assert message.isprintable()
    assert len(message) < 2000


def test_a_message_with_a_name_that_is_anything() -> None:
    message = str(InputError("\n\t\x00\x9b" + "x" * 9999 + ": no"))
    assert message.startswith(r"\n\t\x00\x9bxxx")
    assert message.endswith("x: no")
    assert len(message) < 2000


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    """Nor is a device, which is no test for the files of a machine."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(InputError, match=re.escape(f"{path}: cannot be opened")):
        write_atomically(path, lambda temporary: temporary.write_text("x"))
    with pytest.raises(InputError, match=r"^--output: must be a file, but got"):
        check_output_file("--output", path)
    assert path.is_fifo()
    assert [*tmp_path.iterdir()] == [path]
