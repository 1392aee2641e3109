"""What can go wrong that a user can mend.

Everything raised on purpose derives from `SedonaError`. The command line and the NNI plugin turn an
`InputError` into one line and exit code 2; any other exception is a defect and shows its traceback.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

__all__ = ["CircumstanceError", "InputError", "SedonaError", "UnwritableError"]


class SedonaError(Exception):
    """Base of the errors that this project raises on purpose.

    Examples:
        >>> from sedona_nni import DivergedError, InputError, SedonaError
        >>> issubclass(InputError, SedonaError), issubclass(DivergedError, SedonaError)
        (True, True)
    """


class InputError(SedonaError, ValueError):
    """A value given by the user breaks a rule; the message is one line.

    Examples:
        >>> from sedona_nni import InputError, build_backbone
        >>> try:
        ...     build_backbone("vgg12", num_classes=10)
        ... except InputError as error:
        ...     print(str(error).partition(" vgg11")[0])
        backbone: must be one of
    """

    @classmethod
    def rule(cls, field: str, rule: str, value: Any) -> InputError:
        """Return the error ``"<field>: <rule>, but got <value>"``."""
        return cls(f"{field}: {rule}, but got {value!r}")

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


_POWER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # YAML 1.1 wants a point and a sign in it
