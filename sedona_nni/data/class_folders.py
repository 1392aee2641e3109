"""Pictures in folders that are named after their classes: what counts as one, and what does not.

    train/<class>/.../<picture>, and in the same way val/ and test/

A part's folder may have another of its usual names, in any case: ``training``; ``valid``,
``validation``; ``testing``. Two folders for one part are refused. A picture is a file whose suffix
`data.picture.picture_suffixes` knows. No classes are folders without a picture, hidden ones
(``.ipynb_checkpoints``) and those that programs leave beside pictures (``__MACOSX``, ``@eaDir``).
Whatever is left out is told.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sedona_nni.data.picture import picture_suffixes
from sedona_nni.errors import InputError

__all__ = ["ClassFolders", "class_names", "find_parts", "read_class_folders"]

_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_LEFT_BY_PROGRAMS = ("__MACOSX", "@eaDir")


@dataclass(frozen=True)
class ClassFolders:
    """What a folder of class folders holds.

    Attributes:
        files: The pictures of each class by its name, both in the order of their names.
        left_out: What is there and does not count, a phrase each, e.g. ``"train/b/ (no picture)"``.
    """

    files: dict[str, list[str]]
    left_out: tuple[str, ...]


def find_parts(folder: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the folders of the parts ``train``, ``val``, ``test``, and what else is there.

    Raises:
        InputError: if two folders are the same part.
        OSError: if the folder cannot be listed.
    """
    part_of = {name: part for part, names in _NAMES.items() for name in names}
    found: dict[str, Path] = {}
    left_out = []
    for entry in sorted(folder.iterdir()):
        part = part_of.get(entry.name.lower())
        if not entry.is_dir() or _is_hidden(entry.name):
            continue
        if part is None:
            left_out.append(f"{entry.name}/")
        elif part in found:
            raise InputError(
                f"data_dir: {folder} must have one folder for the {part} part, but has "
                f"{found[part].name}/ and {entry.name}/"
            )
        else:
            found[part] = entry
    return found, tuple(left_out)


def class_names(folder: Path) -> list[str]:
    """Return the names of a part's classes, without reading more of a folder than it takes.

    Raises:
        OSError: if the folder cannot be listed or has no picture.
    """
    found = [path.name for path in _folders(folder) if any(_pictures(path))]
    if not found:
        raise FileNotFoundError(f"{folder} has no picture in a folder of its class")
    return found


def read_class_folders(folder: Path) -> ClassFolders:
    """List the pictures of a part.

    Raises:
        OSError: if the folder cannot be listed or has no picture.
    """
    files: dict[str, list[str]] = {}
    left_out: list[str] = []
    others: dict[str, list[str]] = {}  # by suffix, files that are no pictures
    for entry in sorted(folder.iterdir()):
        if entry.is_file():
            others.setdefault(entry.suffix.lower(), []).append(f"{folder.name}/{entry.name}")
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        shown = f"{folder.name}/{path.name}"
        if _is_hidden(path.name):
            left_out.append(f"{shown}/")
            continue
        pictures = []
        # The order of torchvision's ImageFolder, so that a split is the same with either
        for root, folders, names in sorted(_walk(path)):
            inner = os.path.relpath(root, folder.parent)
            left_out += [f"{inner}/{name}/" for name in folders]
            for name in sorted(names):
                if _is_picture(name):
                    pictures.append(os.path.join(root, name))
                else:
                    suffix = os.path.splitext(name)[1].lower()
                    others.setdefault(suffix, []).append(f"{inner}/{name}")
        if pictures:
            files[path.name] = pictures
        else:
            left_out.append(f"{shown}/ (no picture)")
    if not files:
        raise FileNotFoundError(f"{folder} has no picture in a folder of its class")
    for suffix, paths in sorted(others.items()):
        more = "" if len(paths) == 1 else f" and {len(paths) - 1} more {suffix or 'without suffix'}"
        left_out.append(f"{paths[0]}{more}")
    return ClassFolders(files, tuple(left_out))


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each folder in and below one: its path, the folders in it that are passed over, and
    its files. Links are followed, but no folder is entered twice: they may lead in circles."""
    entered = {*map(str, (inside := folder.resolve()).parents), str(inside)}
    for root, folders, names in os.walk(folder, followlinks=True):
        passed_over = []
        for name in sorted(folders):
            place = os.path.realpath(os.path.join(root, name))
            if _is_hidden(name) or place in entered:
                passed_over.append(name)
                folders.remove(name)
            entered.add(place)
        folders.sort()
        yield root, passed_over, names


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _LEFT_BY_PROGRAMS


def _is_picture(name: str) -> bool:
    return not _is_hidden(name) and os.path.splitext(name)[1].lower() in picture_suffixes()


def _folders(folder: Path) -> list[Path]:
    """Return the folders that may be classes, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))


def _pictures(folder: Path) -> Iterator[Path]:
    """Yield pictures in and below a folder, without listing more than is asked for."""
    for root, _, names in _walk(folder):
        yield from (Path(root, name) for name in names if _is_picture(name))
