"""What images something was learned from, so that other images are not taken for them.

A name and a folder say where images were. The fingerprint says what they were: SHA-256 over

- of a set in memory, all labels and the bytes of all images as the set's files have them;
- of a set in files, the class and the name of every file; the size of every file or, beyond 100,000
  files, of every n-th; and the contents of every m-th of these, so that at most 10,000 files and
  about 64 MiB are read. Up to that a set's contents are compared in full.

So the start of an ImageNet training costs what listing its 1.3 million names does, plus seconds.
What it can miss: pictures of a large set that were changed without a change of their size. It does
not depend on where the folder is, how parts' folders are called, the image size, or what part of a
set is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from sedona_nni.errors import InputError
from sedona_nni.files import check_regular

__all__ = [
    "MOST_BYTES_READ",
    "MOST_FILES_READ",
    "MOST_SIZES",
    "DataIdentity",
    "fingerprint_of_arrays",
    "fingerprint_of_files",
]

MOST_SIZES, MOST_FILES_READ, MOST_BYTES_READ = 100_000, 10_000, 64 * 2**20
"""Files whose sizes count, files that are read, and what they may have together; see above."""


class DataIdentity(BaseModel):
    """The images of a training, a search or a probing.

    Attributes:
        dataset: Name of the data set.
        classes: Name of each class, in the order of their numbers.
        images: Images that train, validate and test.
        fingerprint: Of the whole set, see above.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    classes: tuple[str, ...]
    images: dict[str, int]
    fingerprint: str

    def as_metadata(self) -> dict[str, str]:
        """Return what a file of weights says of what they were trained with: texts, as it has to.

        ``classes`` is a JSON list: the names of the outputs, in their order.
        """
        return {
            "dataset": self.dataset,
            "classes": json.dumps(self.classes),
            "fingerprint": self.fingerprint,
        }

    def check_classes(self, known: DataIdentity, where: str) -> None:
        """Check that the classes are those of the images that something was learned from.

        Args:
            known: Those images.
            where: What was learned, e.g. a directory.

        Raises:
            InputError: if a class has another name or number.
        """
        if self.classes == known.classes:
            return
        lacks = [name for name in known.classes if name not in self.classes]
        more = [name for name in self.classes if name not in known.classes]
        told = [
            f"{word} {_listed(names)}" for word, names in (("lack", lacks), ("add", more)) if names
        ]
        difference = " and ".join(told) or f"are in another order, {_listed(self.classes)}"
        raise InputError(
            f"data_dir: the classes must be those that {where} was trained to tell apart, "
            f"{_listed(known.classes)}, but they {difference}"
        )

    def check_same(self, known: DataIdentity, where: str) -> None:
        """Check that the images are those of something that is gone on with.

        Raises:
            InputError: if they are others.
        """
        if self.fingerprint == known.fingerprint and self.classes == known.classes:
            return
        self.check_classes(known, where)
        counts = [f"{count} {part}" for part, count in known.images.items() if count]
        raise InputError(
            f"data_dir: the images must be those that {where} began with ({', '.join(counts)}), "
            "but they are others; please name a new directory"
        )


def _listed(names: Sequence[str]) -> str:
    """Return at most five names."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def fingerprint_of_arrays(*arrays: np.ndarray) -> str:
    """Return the fingerprint of labels and images in memory."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def fingerprint_of_files(files: Iterable[tuple[str, str, str]]) -> str:
    """Return the fingerprint of pictures in files.

    Args:
        files: Part, class and path of each; the order does not matter.

    Raises:
        InputError: if a file cannot be read.
    """
    ordered = sorted((part, name, Path(path).name, path) for part, name, path in files)
    digest = hashlib.sha256()
    for part, name, file, _ in ordered:
        digest.update(f"{part}\0{name}\0{file}\n".encode(errors="surrogateescape"))
    measured = [path for *_, path in ordered][:: _every(len(ordered), MOST_SIZES)]
    try:
        sizes = [Path(path).stat().st_size for path in measured]
        digest.update(np.array(sizes, dtype=np.int64).tobytes())
        step = max(_every(sum(sizes), MOST_BYTES_READ), _every(len(sizes), MOST_FILES_READ))
        for path in measured[::step]:
            check_regular(Path(path))
            digest.update(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def _every(amount: int, most: int) -> int:
    """Return of how many one has to be taken, so that about ``most`` are."""
    return max(1, -(-amount // most))
