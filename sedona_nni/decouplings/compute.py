"""What the parts of a backbone cost to compute, as a document: the measure of balance.

Notation (L layers; boundary i is the place after layer i):
    c_j         compute of layer j; that of the last layer includes the head
    d_i         compute of the auxiliary network at boundary i
    block i..j  s_{i-1} + c_i + ... + c_j, and d_j if it ends with a cut
    s_i         what a block has more because it begins behind boundary i; 0 but for memory, and
                above a cut of a further kind, where it also depends on where the block below begins
    share       block / (c_0 + ... + c_{L-1}): of what back-propagation computes
Compute is counted in MACs, see `sedona_nni.decouplings.cost`, or measured in nanoseconds, see
`sedona_nni.decouplings.layer_time`. Memory is such a sum, too, of bytes, see
`sedona_nni.decouplings.memory`. All are integers, so that sums and comparisons are exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from typing_extensions import Self

from sedona_nni.decouplings.cost import (
    auxiliary_costs,
    beginning_cost,
    head_cost,
    layer_costs,
)
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.files import Document, read_json
from sedona_nni.models import Backbone, stem_words
from sedona_nni.teachers import CUT_KINDS, NO_AUXILIARY, CutKind, cut_kind
from sedona_nni.teachers.auxiliary import check_auxiliary

__all__ = ["Compute", "by_place", "compute_in_macs", "load_compute", "provenance_of"]

_Amount = Annotated[int, Field(ge=0)]


class Compute(Document):
    """The compute of every layer, and of every auxiliary choice at every boundary.

    Attributes:
        backbone: Name of the backbone.
        unit: Multiply-accumulates of a forward pass of one sample, nanoseconds of a forward and
            a backward pass of a batch, or bytes that a step of a batch keeps.
        layers: Of each layer, L numbers; the last includes the head.
        starts: Of beginning a block behind each of the L-1 boundaries; none: it costs nothing.
        auxiliary: Of each auxiliary network by name, at each of the L-1 boundaries where it can
            stand.
        by_first: Of auxiliary networks that cost otherwise if the block begins elsewhere, at each
            boundary i by the first layer of the block, 0 to i; none where they cannot stand.
        kinds: Of beginning a block behind a cut of a further kind, by that, at each of the L-1
            boundaries i, by the first layer of the block below, 0 to i.
        provenance: What was counted, or measured how.

    Examples:
        >>> from sedona_nni import Compute, Decoupling
        >>> compute = Compute(
        ...     backbone="mine", unit="macs", layers=[3, 2, 1],
        ...     auxiliary=[{"conv1": 1}, {"conv1": 1}],
        ... )
        >>> compute.blocks(Decoupling(backbone="mine", cuts=[0], aux=["conv1"]))
        [4, 3]
    """

    format: Literal["sedona-nni/compute/1"] = "sedona-nni/compute/1"
    backbone: str
    unit: Literal["macs", "ns", "bytes"]
    layers: list[_Amount] = Field(min_length=1)
    starts: list[int] = Field(default_factory=list)
    auxiliary: list[dict[str, _Amount]]
    by_first: dict[str, list[list[_Amount]]] = Field(default_factory=dict)
    kinds: dict[CutKind, list[list[_Amount]]] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.auxiliary) != len(self.layers) - 1:
            raise ValueError(
                "auxiliary must have one entry per boundary, "
                f"but got {len(self.auxiliary)} for {len(self.layers)} layers"
            )
        if len(self.starts) not in (0, len(self.auxiliary)):
            raise ValueError(
                "starts must have one entry per boundary, or none, "
                f"but got {len(self.starts)} for {len(self.layers)} layers"
            )
        if not any(self.layers):
            raise ValueError("layers must not all be free")
        for name, amounts in self.by_first.items():
            expected = [i + 1 if name in here else 0 for i, here in enumerate(self.auxiliary)]
            if [len(here) for here in amounts] != expected:
                raise ValueError(
                    f"by_first.{name} must have a number for each first layer of a block, at each "
                    f"boundary where auxiliary has it, but got {amounts!r}"
                )
        for kind, amounts in self.kinds.items():
            if [len(here) for here in amounts] != [*range(1, len(self.layers))]:
                raise ValueError(
                    f"kinds.{kind} must have a number for each first layer of the block below, at "
                    f"each boundary, but got {amounts!r}"
                )
        return self

    @model_serializer(mode="wrap")
    def _without_free_starts(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        described: dict[str, Any] = dump(self)
        for optional in ("starts", "by_first", "kinds"):
            if not described[optional]:
                del described[optional]
        return described

    @cached_property
    def total(self) -> int:
        """Compute of the whole backbone, without auxiliary networks."""
        return sum(self.layers)

    @property
    def as_provenance(self) -> Any:
        """What a decoupling that was chosen by this carries along: what can be counted again need
        not be, but measured times in full, and of bytes the step that they are of."""
        return self.unit if self.unit == "macs" else self.model_dump(mode="json")

    def check_covers(self, backbone: str, aux_names: Iterable[str]) -> None:
        """Check that this is about a backbone and, at every boundary, some auxiliary networks.

        Raises:
            InputError: if it is about another backbone or lacks one of them.
        """
        boundaries = range(len(self.auxiliary))
        self._check_covers(backbone, itertools.product(boundaries, aux_names))

    def _check_covers(self, backbone: str, cuts: Iterable[tuple[int, str]]) -> None:
        if self.backbone != backbone:
            raise InputError.rule("compute", f"must be that of {backbone}", self.backbone)
        for boundary, name in cuts:
            if name not in self.auxiliary[boundary]:
                rule = f"must include {name} at boundary {boundary}, if it can stand there"
                raise InputError.rule("compute", rule, sorted(self.auxiliary[boundary]))
            if (kind := cut_kind(name)) is not None and kind not in self.kinds:
                rule = f"must include cuts of the kind {kind}, or all must be plain"
                raise InputError.rule("compute", rule, [*self.kinds])

    @cached_property
    def _sums(self) -> list[int]:
        return [0, *itertools.accumulate(self.layers)]

    def between(self, below: int, end: int) -> int:
        """Return the compute of a block of the layers between two boundaries, below+1..end, without
        auxiliary network; -1 is the start of the network, L-1 its end."""
        start = self.starts[below] if self.starts and below >= 0 else 0
        return start + self._sums[end + 1] - self._sums[below + 1]

    def block(self, below: int, end: int, aux: str = NO_AUXILIARY) -> int:
        """Return the compute of such a block with an auxiliary network at its end, if any."""
        own = self.between(below, end)
        if end == len(self.auxiliary):
            return own
        if aux in self.by_first:
            return own + self.by_first[aux][end][below + 1]
        # Without an auxiliary network, nothing is computed, but something may be kept
        return own + self.auxiliary[end].get(aux, 0)

    def blocks(self, decoupling: Decoupling) -> list[int]:
        """Return the compute of each block with its auxiliary network, K of them.

        Raises:
            InputError: if this is not about the decoupling's backbone or auxiliary networks.
        """
        cuts = zip(decoupling.cuts, decoupling.aux, strict=True)
        self._check_covers(
            decoupling.backbone, ((i, name) for i, name in cuts if name != NO_AUXILIARY)
        )
        blocks = decoupling.blocks(len(self.layers))
        costs = [
            self.block(block.start - 1, block.stop - 1, name)
            for block, name in zip(blocks, [*decoupling.aux, NO_AUXILIARY], strict=True)
        ]
        for place, kind in enumerate(decoupling.kinds):
            if kind is not None:
                below = blocks[place]
                costs[place + 1] += self.kinds[kind][below.stop - 1][below.start]
        return costs

    def largest_share(self, decoupling: Decoupling) -> float:
        """Return the largest block's share of the backbone's compute; 1 without a cut.

        Its auxiliary network is counted in the block, but no auxiliary network in the whole. So a
        pipeline with a device per block, which the largest block slows down, is at best
        1 / share times as fast as back-propagation on one device: the ideal speed-up.

        Raises:
            InputError: see `blocks`.
        """
        return max(self.blocks(decoupling)) / self.total


def compute_in_macs(backbone: Backbone, aux_names: Iterable[str]) -> Compute:
    """Count the MACs of a backbone's layers and of some auxiliary networks at every boundary.

    Build the backbone under ``torch.device("meta")``: its weights are not needed.

    Auxiliary networks are left out where they cannot stand.

    Raises:
        InputError: if a name is unknown.

    Examples:
        >>> import torch
        >>> from sedona_nni import build_backbone, compute_in_macs
        >>> with torch.device("meta"):
        ...     backbone = build_backbone("vgg11", num_classes=10)
        >>> compute = compute_in_macs(backbone, ["conv1", "conv2"])
        >>> compute.unit, compute.total
        ('macs', 11069440)
    """
    names = [name for name in aux_names if name != NO_AUXILIARY]
    for name in names:
        check_auxiliary(name)
    costs = auxiliary_costs(backbone, names, where_possible=True)
    own = layer_costs(backbone)
    layers = [cost.macs for cost in own]
    layers[-1] += head_cost(backbone).macs
    return Compute(
        backbone=backbone.name,
        unit="macs",
        layers=layers,
        **by_place(
            [{name: [cost.macs for cost in all_] for name, all_ in here.items()} for here in costs]
        ),
        kinds={
            kind: [
                [
                    beginning_cost(backbone, kind, cut, first, own[cut]).macs
                    for first in range(cut + 1)
                ]
                for cut in range(backbone.num_layers - 1)
            ]
            for kind in CUT_KINDS
            if kind in {cut_kind(name) for name in names}
        },
        provenance=provenance_of(backbone),
    )


def by_place(amounts: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Any]:
    """Return ``auxiliary`` and ``by_first`` of a `Compute`.

    Args:
        amounts: At each boundary, of each auxiliary network that can stand there, one for each of
            its `sedona_nni.teachers.auxiliary.places`.
    """
    several = {name for here in amounts for name, each in here.items() if len(each) > 1}
    return {
        "auxiliary": [{name: each[0] for name, each in here.items()} for here in amounts],
        "by_first": {name: [[*here.get(name, ())] for here in amounts] for name in sorted(several)},
    }


def provenance_of(backbone: Backbone) -> dict[str, Any]:
    """Return which form of a backbone was counted or measured."""
    stem = stem_words(backbone)
    return {
        "width_multiplier": backbone.width_multiplier,
        "image_size": backbone.image_size,
        "in_channels": backbone.in_channels,
        "num_classes": backbone.num_classes,
        **({} if stem is None else {"stem": stem}),
    }


def load_compute(path: Path) -> Compute:
    """Read a file of computes, or the one that a decoupling was derived with and carries along.

    Raises:
        InputError: if the file is neither.
    """
    content = read_json(path)
    provenance = content.get("provenance") if isinstance(content, dict) else None
    if isinstance(provenance, dict) and isinstance(provenance.get("compute"), dict):
        content = provenance["compute"]
    try:
        return Compute.model_validate(content)
    except ValidationError as error:
        raise InputError.from_validation(error, str(path)) from None
