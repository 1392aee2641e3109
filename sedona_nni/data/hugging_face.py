"""Pictures in tables of the library ``datasets`` by Hugging Face, on this machine.

A folder that ``save_to_disk`` wrote, or one of Parquet files that are named after their splits, as
``to_parquet`` and the Hub have them. A split has one column of pictures and one of class labels, of
whatever names; the others are not looked at. Pictures stay as they are in the tables until a batch
needs them, and are read like files, see `sedona_nni.data.picture`. Nothing is downloaded; the
library keeps a copy of Parquet files in its own cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sedona_nni.data.identity import MOST_BYTES_READ, MOST_FILES_READ
from sedona_nni.data.picture import StoredPicture
from sedona_nni.errors import InputError
from sedona_nni.extras import how_to_get
from sedona_nni.files import check_regular

__all__ = ["Table", "TablePictures", "fingerprint_of_tables", "read_tables"]

_PARTS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}


@dataclass(frozen=True, eq=False)
class TablePictures:
    """Pictures by number, as `sedona_nni.data.batches.FolderImages` wants files.

    Attributes:
        table: Has a column of what is in the files.
        column: What that is called.
        name: What the table is called where a picture is refused.
        rows: Which of its rows these are.
    """

    table: Any
    column: str
    name: str
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        """Return the picture of a number, or those of several."""
        if isinstance(index, np.ndarray):
            return replace(self, rows=self.rows[index])
        row = int(self.rows[index])
        stored = self.table[row][self.column]
        content = stored["bytes"]
        if content is None:
            check_regular(Path(stored["path"]))
            content = Path(stored["path"]).read_bytes()
        return StoredPicture(f"{self.name}, row {row}", content)


@dataclass(frozen=True)
class Table:
    """A split.

    Attributes:
        split: What it is called.
        pictures: All of its pictures.
        labels: Their class numbers, int64, shape (N,).
        classes: Name of each class.
        nbytes: What all of its columns have, bytes.
    """

    split: str
    pictures: TablePictures
    labels: np.ndarray
    classes: tuple[str, ...]
    nbytes: int


def read_tables(folder: Path) -> tuple[dict[str, Table], tuple[str, ...]]:
    """Return the splits as ``train``, ``val`` and ``test``, and the names of others.

    Raises:
        InputError: if the library is not installed, a split is there twice, or it has not one
            column of pictures and one of classes, which are the same in all splits.
        OSError: if there are no tables.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise InputError(f"dataset: huggingface needs {how_to_get(error)}") from None

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs, it also raises
    if (folder / "dataset_dict.json").is_file():
        splits: Mapping[str, Any] = datasets.load_from_disk(str(folder))
    elif (folder / "state.json").is_file():
        splits = {"train": datasets.load_from_disk(str(folder))}
    elif tables := [*folder.rglob("*.parquet")]:
        for path in tables:
            check_regular(path)
        splits = datasets.load_dataset("parquet", data_dir=str(folder))
    else:
        raise FileNotFoundError(f"{folder} has no dataset_dict.json, state.json or *.parquet")
    found: dict[str, Table] = {}
    for name, table in splits.items():
        if (part := _PARTS.get(str(name))) is None:
            continue
        if part in found:
            rule = f"must have one {part} part, but has {found[part].split} and {name}"
            raise InputError(f"data_dir: {folder} {rule}")
        found[part] = _table(folder, str(name), table)
    if len({table.classes for table in found.values()}) > 1:
        raise InputError(f"data_dir: {folder} must have the same classes in all its splits")
    return found, tuple(str(name) for name in splits if str(name) not in _PARTS)


def _table(folder: Path, split: str, table: Any) -> Table:
    import datasets

    columns = []
    for kind in (datasets.Image, datasets.ClassLabel):
        names = [name for name, type_ in table.features.items() if isinstance(type_, kind)]
        if len(names) != 1:
            rule = f"{split} of {folder} must have one column of type {kind.__name__}"
            raise InputError.rule("data_dir", rule, names)
        columns += names
    picture, label = columns
    labels = np.array(table[label], dtype=np.int64)
    if (labels < 0).any():  # how those are marked whose class is not known
        raise InputError(f"data_dir: {split} of {folder} must have a class in every row")
    stored = table.select_columns([picture]).cast_column(picture, datasets.Image(decode=False))
    return Table(
        split,
        TablePictures(stored, picture, f"{folder}/{split}", np.arange(len(table))),
        labels,
        tuple(table.features[label].names),
        table.data.nbytes,
    )


def fingerprint_of_tables(tables: Mapping[str, Table]) -> str:
    """Return the fingerprint of tables: all labels, and as many pictures as of those in files."""
    digest = hashlib.sha256()
    count = sum(len(table.labels) for table in tables.values())
    nbytes = sum(table.nbytes for table in tables.values())
    step = max(1, -(-count // MOST_FILES_READ), -(-nbytes // MOST_BYTES_READ))
    for part, table in sorted(tables.items()):
        digest.update("\0".join([part, *table.classes, str(len(table.labels)), ""]).encode())
        digest.update(table.labels.tobytes())
        for row in range(0, len(table.labels), step):
            digest.update(table.pictures[row].content)
    return digest.hexdigest()
