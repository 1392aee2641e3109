"""What can go wrong that a user can mend.

Everything raised on purpose derives from `SedonaError`. The command line and the NNI plugin turn an
`InputError` into one line and exit code 2; any other exception is a defect and shows its traceback.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any

from pydantic import ValidationError

from sedona_nni.printable import printable

__all__ = [
    "CircumstanceError",
    "InputError",
    "SedonaError",
    "UnwritableError",
    "lost_memory_error",
]


class SedonaError(Exception):
    """Base of the errors that this project raises on purpose.

    Examples:
        >>> from sedona_nni import DivergedError, InputError, SedonaError
        >>> issubclass(InputError, SedonaError), issubclass(DivergedError, SedonaError)
        (True, True)
    """


class InputError(SedonaError, ValueError):
    """A value given by the user breaks a rule; the message is one line.

    What is in it of a file or a name may hold anything: characters that would break the line or
    steer a terminal are written as Python writes them, and a very long message loses its middle.

    Examples:
        >>> from sedona_nni import InputError, build_backbone
        >>> try:
        ...     build_backbone("vgg12", num_classes=10)
        ... except InputError as error:
        ...     print(str(error).partition(" vgg11")[0])
        backbone: must be one of
    """

    def __init__(self, message: str) -> None:
        line = printable(message)
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST - 300]} ... {line[-200:]}"
        super().__init__(line)

    @classmethod
    def rule(cls, field: str, rule: str, value: Any) -> InputError:
        """Return the error ``"<field>: <rule>, but got <value>"``."""
        return cls(f"{field}: {rule}, but got {_VALUES.repr(value)}")

    @classmethod
    def from_validation(cls, error: ValidationError, where: str) -> InputError:
        """Return the first complaint of pydantic as one line that names the field.

        Args:
            error: What pydantic raised.
            where: What was being read, e.g. a file's name or ``"tuner.classArgs"``.
        """
        first = error.errors(include_url=False)[0]
        field = ".".join(filter(None, [where, *(str(part) for part in first["loc"])]))
        if first["type"] == "extra_forbidden":
            return cls(f"{field}: unknown field, please check its spelling")
        if first["type"] == "missing":
            return cls(f"{field}: this field is required")
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":  # our own validators already name the value
            return cls(f"{field}: {message}")
        value = first["input"]
        if isinstance(value, str) and _POWER.fullmatch(value):
            message += f" (YAML 1.1 takes {value} for a text; write {float(value):.15g})"
        return cls.rule(field, message, value)


class CircumstanceError(SedonaError):
    """Not what was asked for is to blame but the machine: the same once more may well succeed."""


class UnwritableError(InputError, CircumstanceError):
    """The file system refuses to take a file, e.g. as it is full."""


class _Values(reprlib.Repr):
    """Shows values as Python does, up to a size: of some, all of it would fill the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlong = 10, 100
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 40
        self.maxstring = self.maxother = 400

    def repr_int(self, value: int, level: int) -> str:
        """Return a number, or how long it is: Python refuses to write very long ones."""
        digits = int(value.bit_length() * 0.30103) + 1
        return repr(value) if digits <= self.maxlong else f"a number of {digits} digits"


_VALUES = _Values()
_LONGEST = 2000
_POWER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # YAML 1.1 wants a point and a sign in it


def lost_memory_error(error: BaseException) -> bool:
    """Return whether an error is what Python makes of one that a call has lost on its way: so ends
    an import that runs out of memory."""
    return isinstance(error, SystemError) and "without exception set" in str(error)
