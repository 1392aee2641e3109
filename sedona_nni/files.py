"""Files that are either the old ones or the new ones, never half of each.

What a disk or a damaged file does to a reader or writer ends as one line that names the file.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import stat
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from sedona_nni.errors import InputError, UnwritableError

__all__ = [
    "Document",
    "append_line",
    "check_no_links",
    "check_output_file",
    "check_output_folder",
    "check_regular",
    "check_room",
    "read_json",
    "read_tensors",
    "reading",
    "user_cache",
    "user_path",
    "write_at",
    "write_atomically",
    "write_json",
]


_ROOM_BYTES = 2**20


def check_output_folder(option: str, folder: Path) -> None:
    """Check that files can be written into a folder, by trying; nothing stays.

    Args:
        option: How the user calls it, e.g. ``"--results"``.
        folder: It need not exist yet.

    Raises:
        InputError: if they cannot.
    """
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = f"{place}: {error.strerror}"
        rule = f"must be a folder that can be written to ({reason})"
        raise InputError.rule(option, rule, str(folder)) from None


def check_output_file(option: str, path: Path) -> None:
    """Check that a file can be written, by trying to write beside it; nothing stays.

    Args:
        option: How the user calls it, e.g. ``"--output"``.
        path: It need not exist yet, nor need its folder.

    Raises:
        InputError: if it cannot.
    """
    if path.exists() and not path.is_file():  # a device would be replaced
        raise InputError.rule(option, "must be a file", str(path))
    check_output_folder(option, path.parent)


def check_no_links(path: Path) -> None:
    """Check that a file or folder of ours, which is written and deleted, is where it seems to be.

    Args:
        path: It need not exist.

    Raises:
        InputError: if it, or something in it, is a link.
    """
    inside = (
        Path(root, name) for root, folders, files in os.walk(path) for name in [*folders, *files]
    )
    for each in itertools.chain([path], inside):
        if each.is_symlink():
            raise InputError(
                f"{each}: must not be a link, as what is written there is deleted, too"
            )


def check_room(folder: Path) -> None:
    """Check that a file of a megabyte can be written into a folder; nothing stays.

    Raises:
        UnwritableError: if it cannot, as the disk is full or the folder read-only.
    """
    probe = folder / "room"
    write_atomically(probe, lambda path: path.write_bytes(bytes(_ROOM_BYTES)))
    probe.unlink()


def user_path(text: str | Path) -> Path:
    """Return the path that a user has written; ``~`` is his home folder, as in a shell."""
    return Path(os.path.expanduser(text))


def user_cache(kind: str) -> Path:
    """Return the folder of what is kept to be fast next time; it may be deleted at any time.

    Args:
        kind: Of what, the name of a folder in ``$XDG_CACHE_HOME/sedona-nni`` or, by default,
            ``~/.cache/sedona-nni``.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home, "sedona-nni", kind)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it into place.

    A reader sees the old content or the new one; an interrupted or failed write leaves the old.

    Raises:
        UnwritableError: if the file system refuses, e.g. as it is full.
        InputError: if there is a device, a pipe or a socket, which would be replaced.
    """
    check_regular(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        os.close(handle)
        write(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except Exception as error:
        refusal = error if isinstance(error, OSError) else _refusal(temporary)
        if refusal is None:
            raise
        raise UnwritableError(f"{path}: cannot be written ({refusal.strerror})") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_at(path: Path, end: int, added: bytes) -> None:
    """Add to a file that only grows; what is behind its end goes: half of what a writer that died
    has added.

    Args:
        path: The file, which exists.
        end: How many bytes count.
        added: What follows them.

    Raises:
        InputError: if the file system refuses, e.g. as it is full.
    """
    try:
        with path.open("r+b") as file:
            file.truncate(end)
            file.seek(end)
            file.write(added)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, which need not exist; only one process may do so at a time.

    What is behind its last whole line goes before: half of what a writer that died has added.

    Args:
        path: The file.
        line: The line, without its end.
    """
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if file.read(1) not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(f"{line}\n".encode())


def _refusal(path: Path | None) -> OSError | None:
    """Return why nothing can be added to a file, None if something can.

    The writers of tensors raise errors of their own, which do not say that a disk is full.
    """
    try:
        if path is not None:
            with path.open("ab") as file:
                file.write(bytes(2**20))
    except OSError as error:
        return error
    return None


def check_regular(path: Path) -> None:
    """Check that what there is at a path can be read to its end: a pipe may never have one.

    Raises:
        InputError: if it is a pipe, a socket or a device, or the path leads there.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # whoever opens it says why
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: cannot be opened (is a pipe, a socket or a device)")


@contextmanager
def reading(path: Path, remedy: str = "") -> Iterator[None]:
    """Turn whatever a reader of a file stumbles over into one line.

    Readers of damaged files raise anything, from OSError to KeyError.

    Args:
        path: The file.
        remedy: What to do then, in a few words.

    Raises:
        InputError: if anything was raised; it names the file.
    """
    try:
        check_regular(path)
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        message = reason if isinstance(error, InputError) else f"{path}: cannot be read ({reason})"
        raise InputError(f"{message}; {remedy}" if remedy else message) from error


def read_tensors(path: Path) -> Any:
    """Read what ``torch.save`` wrote, on the CPU; no code is run.

    Raises:
        InputError: if the file is missing, damaged, or holds more than tensors and plain values.
    """
    import torch

    check_regular(path)
    try:
        if zipfile.is_zipfile(path):  # whose checksums torch does not look at
            with zipfile.ZipFile(path) as parts:
                if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
                    raise ValueError("packed, which torch.save never does")  # and may fill a disk
                if (damaged := parts.testzip()) is not None:
                    raise ValueError(f"damaged at {damaged}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what other programs' pickles may contain
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own message advises to run whatever the file holds
        rule = "is not a file of tensors alone; any other is refused, as it could run code"
        raise InputError(f"{path}: {rule}") from None
    except Exception as error:  # other readers have other complaints, some without a word
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: is not a file of tensors ({reason})") from None


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    text = json.dumps(value, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: if the file is missing or not JSON.
    """
    check_regular(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except MemoryError:
        raise InputError(f"{path}: is not valid JSON (larger than the memory)") from None
    except RecursionError:
        raise InputError(f"{path}: is not valid JSON (too deep)") from None
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from None


class Document(BaseModel):
    """A JSON file that names its format."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read and check a file.

        Raises:
            InputError: if it is missing, is not JSON, or breaks a rule of the format.
        """
        try:
            return cls.model_validate(read_json(Path(path)))
        except ValidationError as error:
            raise InputError.from_validation(error, str(path)) from None

    def save(self, path: Path | str) -> None:
        """Write the file atomically."""
        write_json(Path(path), self.model_dump(mode="json"))
