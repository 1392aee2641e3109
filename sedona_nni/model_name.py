"""What a model from elsewhere is called, by one text.

    torchvision:resnet50
    timm:convnext_tiny
    my_package.nets:build
    torchvision:resnet50 {"args": {"zero_init_residual": true}, "boundaries": 8}

The JSON says what it is given beside the number of classes, and where its layers end, unless that
is at its units. It is sorted, so that models that are alike are called alike; where a decoupling is
of such a model, that says of which layers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sedona_nni.errors import InputError

__all__ = ["Boundaries", "ModelName", "is_model_name", "module_of"]

Boundaries = str | int | tuple[str, ...]
"""See `sedona_nni.models.cutting.cut_points.choose_places`, which knows the rules."""

_SAID = {"args", "boundaries"}


def is_model_name(name: str) -> bool:
    """Return whether a name is that of a model from elsewhere, not of a registered backbone."""
    return ":" in name


def module_of(name: str) -> str | None:
    """Return the module that a user's own model is of, None of all others.

    Examples:
        >>> from sedona_nni.model_name import module_of
        >>> module_of("my_package.nets:build"), module_of("timm:convnext_tiny")
        ('my_package.nets', None)
    """
    source, colon, _ = name.partition(":")
    return source if colon and source not in ("torchvision", "timm") else None


@dataclass(frozen=True)
class ModelName:
    """What a model is called, in parts.

    Attributes:
        source: ``torchvision``, ``timm`` or a module.
        builder: Its name there.
        args: What it is given by name, fit for JSON.
        boundaries: Where its layers end.

    Examples:
        >>> from sedona_nni.model_name import ModelName
        >>> name = ModelName("torchvision", "resnet18", boundaries=4)
        >>> str(name)
        'torchvision:resnet18 {"boundaries": 4}'
        >>> ModelName.parse(str(name)) == name
        True
    """

    source: str
    builder: str
    args: Mapping[str, Any] = field(default_factory=dict)
    boundaries: Boundaries = "units"

    def __str__(self) -> str:
        said: dict[str, Any] = {"args": dict(self.args)} if self.args else {}
        if self.boundaries != "units":
            said["boundaries"] = self.boundaries
        return self.plain + (f" {json.dumps(said, sort_keys=True)}" if said else "")

    @property
    def plain(self) -> str:
        """Source and builder alone."""
        return f"{self.source}:{self.builder}"

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Read it.

        Raises:
            InputError: if it is not written as above.
        """
        name, _, more = text.partition(" ")
        source, _, builder = name.partition(":")
        try:
            said = json.loads(more or "{}")
        except ValueError:
            said = None
        if not (source and builder and isinstance(said, dict) and said.keys() <= _SAID):
            rule = "must be like torchvision:resnet50, timm:convnext_tiny or my_package.nets:build"
            raise InputError.rule("model", rule, text)
        return cls(source, builder).given(**said)

    def given(self, *, args: object = None, boundaries: object = None) -> ModelName:
        """Return the name with what is not None in place of its own.

        Raises:
            InputError: if one has not the form of its kind.
        """
        args = self.args if args is None else args
        boundaries = self.boundaries if boundaries is None else boundaries
        if not isinstance(args, Mapping):
            raise InputError.rule("model_args", "must be names and values", args)
        try:
            json.dumps(dict(args))
        except (TypeError, ValueError) as error:
            raise InputError.rule("model_args", f"must be fit for JSON ({error})", args) from None
        if isinstance(boundaries, list | tuple) and all(isinstance(b, str) for b in boundaries):
            boundaries = tuple(boundaries)
        elif not isinstance(boundaries, str | int) or isinstance(boundaries, bool):
            rule = "must be all, units, a number of layers or a list of names"
            raise InputError.rule("boundaries", rule, boundaries)
        return ModelName(self.source, self.builder, args, boundaries)
