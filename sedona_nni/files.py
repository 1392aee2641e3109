"""Files that are either the old ones or the new ones, never half of each."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from sedona_nni.errors import InputError

__all__ = [
    "Document",
    "check_output_file",
    "check_output_folder",
    "read_json",
    "user_path",
    "write_atomically",
    "write_json",
]


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
    if path.is_dir():
        raise InputError.rule(option, "must be a file", str(path))
    check_output_folder(option, path.parent)


def user_path(text: str | Path) -> Path:
    """Return the path that a user has written; ``~`` is his home folder, as in a shell."""
    return Path(os.path.expanduser(text))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it into place.

    A reader sees the old content or the new one; an interrupted or failed write leaves the old.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    text = json.dumps(value, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: if the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from None


class Document(BaseModel):
    """A JSON file that names its format."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a file.

        Raises:
            InputError: if it is missing, is not JSON, or breaks a rule of the format.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            raise InputError.from_validation(error, str(path)) from None

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        write_json(path, self.model_dump(mode="json"))
