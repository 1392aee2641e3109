"""Pictures that cannot be read: found before anything is learned, left out, and told.

Every file is read once, by all processes that may read. What was found is kept in the user's cache,
``$XDG_CACHE_HOME/sedona-nni`` or ``~/.cache/sedona-nni``, under the SHA-256 of the names, sizes and
times of change of all files and of what reads them: so a set is read anew when a file has changed,
and once for all trials of an experiment. Where nothing can be kept it is read each time.

What is left out depends on the files alone. It is part of the fingerprint of the images, so that a
run is not continued with others, see `sedona_nni.data.identity`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError
from torch.utils.data import Dataset

from sedona_nni.data import picture
from sedona_nni.data.batches import FolderImages, ImageSet
from sedona_nni.data.workers import number_of_workers, read_ahead
from sedona_nni.errors import InputError
from sedona_nni.files import read_json, user_cache, write_json
from sedona_nni.progress import tracked

__all__ = ["Readable", "find_bad_pictures", "leave_out_bad_pictures"]

_REASONS = TypeAdapter(dict[int, str])
_AT_ONCE = 64  # files that a process is asked for
_TOLD = 3  # of the files that are left out


@dataclass(frozen=True)
class Readable:
    """What is left of some images.

    Attributes:
        parts: By name, those that can be read.
        left_out: Part, class and file name of each other one.
        words: What is left out, in a phrase; none if nothing is.
    """

    parts: dict[str, ImageSet]
    left_out: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def leave_out_bad_pictures(
    parts: Mapping[str, ImageSet], classes: Sequence[str], workers: int | None
) -> Readable:
    """Read all pictures of a data set once.

    Args:
        parts: Its parts by name; some may be images in memory, but not all.
        classes: Name of each class, in the order of their numbers.
        workers: See `sedona_nni.data.batches.FolderImages`.

    Raises:
        InputError: if no part has pictures in files, no picture of a class in ``train`` can be
            read, or the system does not let one be read.
    """
    in_files = {
        name: part
        for name, part in parts.items()
        if isinstance(part, FolderImages) and isinstance(part.files, np.ndarray)
    }
    if not in_files:
        rule = "must be fail for a data set whose images are not files of their own"
        raise InputError.rule("on_bad_image", rule, "skip")
    files = [str(file) for part in in_files.values() for file in part.files]
    bad = find_bad_pictures(files, workers)
    left: dict[str, ImageSet] = dict(parts)
    left_out = []
    for name, part in in_files.items():
        is_bad = np.array([str(file) in bad for file in part.files], dtype=bool)
        left[name] = part.subset(np.flatnonzero(~is_bad))
        left_out += [
            f"{name}/{classes[part.labels[number]]}/{Path(part.files[number]).name}"
            for number in np.flatnonzero(is_bad)
        ]
    if (train := in_files.get("train")) is not None:
        _check_classes(train, left["train"], classes, bad)
    return Readable(left, tuple(left_out), _told(bad))


def find_bad_pictures(files: Sequence[str], workers: int | None) -> dict[str, str]:
    """Return why each file that cannot be read cannot, by its path.

    Args:
        files: The paths.
        workers: See `sedona_nni.data.batches.FolderImages`.

    Raises:
        InputError: if the system does not let a file be read.
    """
    ordered = sorted(set(files))
    kept = user_cache("pictures") / f"{_key(ordered)}.json"
    with suppress(InputError, ValidationError):  # there is none, or a damaged one
        reasons = _REASONS.validate_python(read_json(kept))
        return {path: reasons[n] for n, path in enumerate(ordered) if n in reasons}
    numbers = range(len(ordered))
    runs = [numbers[start : start + _AT_ONCE] for start in numbers[::_AT_ONCE]]
    read = read_ahead(
        _Complaints(ordered), map(list, runs), number_of_workers(workers), collate=list
    )
    bad: dict[int, str] = {}
    for run in tracked(runs, "reading pictures"):
        bad |= {number: why for number, why in zip(run, next(read), strict=True) if why}
    with suppress(InputError):  # a home that cannot be written to
        write_json(kept, bad)
    return {ordered[number]: why for number, why in bad.items()}


class _Complaints(Dataset[str]):
    """Why a picture cannot be read, by its number; empty if it can."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = files

    def __getitem__(self, number: int) -> str:
        path = self.files[number]
        try:
            picture.read_picture(path)
        except picture.BadPicture as error:
            return str(error).removeprefix(f"{path}: ")
        return ""


def _key(ordered: Sequence[str]) -> str:
    """Return what changes whenever a file may hold something else, or is read otherwise."""
    import PIL

    digest = hashlib.sha256(f"Pillow {PIL.__version__}\n".encode())
    digest.update(Path(picture.__file__).read_bytes())
    for path in ordered:
        try:
            status = os.stat(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        line = f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _check_classes(
    train: FolderImages, left: ImageSet, classes: Sequence[str], bad: Mapping[str, str]
) -> None:
    for label in sorted(set(train.labels.tolist()) - set(left.labels.tolist())):
        files = train.files[train.labels == label].tolist()
        raise InputError(
            f"on_bad_image: class {classes[label]} must have a picture to learn from, but none of "
            f"{len(files)} can be read: {files[0]} {bad[files[0]]}"
        )


def _told(bad: Mapping[str, str]) -> tuple[str, ...]:
    if not bad:
        return ()
    first = [f"{path} {why}" for path, why in sorted(bad.items())[:_TOLD]]
    more = f" and {len(bad) - _TOLD:,} more" if len(bad) > _TOLD else ""
    pictures = "1 picture" if len(bad) == 1 else f"{len(bad):,} pictures"
    return (f"{pictures} that cannot be read: {', '.join(first)}{more}",)
