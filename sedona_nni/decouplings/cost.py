"""What networks cost: parameters, multiply-accumulates and memory.

MACs are the multiply-accumulates of convolutions, linear layers and attention for one sample. By
the MACs of its blocks a decoupling promises a speed-up: K devices work in a pipeline, so the
largest block sets the pace.
"""

from __future__ import annotations

import copy
import itertools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedona_nni.decouplings.decoupled import build_context
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.decouplings.dry_run import MacCounter
from sedona_nni.errors import InputError
from sedona_nni.models import Backbone, FeatureShape, stem_words
from sedona_nni.models.batch_norm import BatchNorm
from sedona_nni.models.form import form_of
from sedona_nni.teachers import NO_AUXILIARY, CutKind, network_at
from sedona_nni.teachers.auxiliary import (
    Around,
    AuxiliaryContext,
    AuxiliaryNetwork,
    auxiliary_context,
    auxiliary_names,
    build_auxiliary,
    looks,
    places,
    taught,
)

__all__ = [
    "BlockCost",
    "Cost",
    "auxiliary_cost",
    "auxiliary_costs",
    "beginning_cost",
    "block_costs",
    "count_macs",
    "count_parameters",
    "describe",
    "head_cost",
    "heavy_auxiliary",
    "layer_costs",
    "peak_memory_mib",
    "relaxed_cost",
    "summarise_blocks",
]


@dataclass(frozen=True)
class Cost:
    """Parameters, and MACs per sample."""

    parameters: int
    macs: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.parameters + other.parameters, self.macs + other.macs)


@dataclass(frozen=True)
class BlockCost:
    """One block of a decoupling.

    Attributes:
        first_layer: Its first layer.
        last_layer: Its last layer.
        backbone: Cost of its part of the backbone; the last block's includes the head.
        aux: Name of the cut at its end; None for the last block.
        auxiliary: Cost of its auxiliary network.
        kind: Of the cut where it begins, see `sedona_nni.decouplings.cut_kinds`.
        beginning: What that costs, see `beginning_cost`.
    """

    first_layer: int
    last_layer: int
    backbone: Cost
    aux: str | None
    auxiliary: Cost
    kind: CutKind | None = None
    beginning: Cost = Cost(0, 0)

    @property
    def training(self) -> Cost:
        """All of it."""
        return self.backbone + self.auxiliary + self.beginning

    @property
    def context(self) -> Cost:
        """What of its beginning is there in inference, too."""
        return Cost(0, 0) if self.kind == "overlap" else self.beginning


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable numbers in a module; buffers do not count."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def count_macs(module: nn.Module, shape: FeatureShape, around: Around | None = None) -> int:
    """Return the MACs of convolutions, linear layers and attention for one sample.

    An auxiliary network is counted as it runs in training, with all that its local loss needs.
    Nothing is computed and the module is left as it was.

    Args:
        module: Any module that takes features.
        shape: Shape of its input.
        around: Of a `Teacher`.

    Raises:
        InputError: if it wants to know values, of which there are none here.
    """
    # A copy without values: no memory, no arithmetic, and hooks and modes stay off the original
    tensors = itertools.chain(module.parameters(), module.buffers())
    memo = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    skeleton = copy.deepcopy(module, memo).eval()  # in training mode batch norm refuses one sample
    for part in skeleton.modules():
        if isinstance(part, BatchNorm):  # it has no MACs, but takes long
            part.forward = _unchanged  # type: ignore[method-assign, assignment]
    counter = MacCounter(skeleton)
    dtype = next((p.dtype for p in skeleton.parameters()), torch.get_default_dtype())
    features = torch.empty(shape.of_batch(1), dtype=dtype, device="meta")
    try:
        with torch.no_grad(), counter:
            if isinstance(skeleton, AuxiliaryNetwork):
                labels = torch.empty(1, dtype=torch.long, device="meta")
                seen = None if around is None else around.seen(1, device="meta", dtype=dtype)
                taught(skeleton, features, labels, F.cross_entropy, seen)
            else:
                skeleton(features)
    except (RuntimeError, TypeError) as error:
        if not _NO_VALUES.search(f"{error}"):
            raise
        rule = "must not ask for the values of tensors, as its costs are counted without any"
        complaint = f"{error}".splitlines()[0]
        raise _UncountableError(f"{type(module).__name__}: {rule}: {complaint}") from error
    return counter.macs


class _UncountableError(InputError):
    """A module that is at fault wherever it stands."""


_NO_VALUES = re.compile("meta tensor|meta device type")  # in all that torch says where it has none


def _unchanged(features: Tensor) -> Tensor:
    return features


def _cost(module: nn.Module, shape: FeatureShape, around: Around | None = None) -> Cost:
    return Cost(count_parameters(module), count_macs(module, shape, around))


def _inputs(backbone: Backbone) -> list[FeatureShape]:
    """Return the input shape of each layer and of the head, L+1 of them."""
    return [backbone.images, *backbone.shapes]


def layer_costs(backbone: Backbone) -> list[Cost]:
    """Return the cost of each layer, L of them."""
    shapes = _inputs(backbone)[:-1]
    keys = [(form_of(x), shape) for x, shape in zip(backbone.layers, shapes, strict=True)]
    alike = dict(zip(keys, backbone.layers, strict=True))  # deep networks repeat themselves
    costs = {(form, shape): _cost(x, shape) for (form, shape), x in alike.items()}
    return [costs[key] for key in keys]


def head_cost(backbone: Backbone) -> Cost:
    """Return the cost of the head."""
    return _cost(backbone.head, backbone.shapes[-1])


def auxiliary_cost(name: str, context: AuxiliaryContext) -> Cost:
    """Return the cost of an auxiliary network.

    Raises:
        InputError: if the name is unknown.
    """
    with torch.device("meta"):
        network = build_auxiliary(name, context)
    return _cost(network, context.shape, context.around)


def auxiliary_costs(
    backbone: Backbone, names: Iterable[str], *, where_possible: bool = False
) -> list[dict[str, list[Cost]]]:
    """Return the cost of auxiliary networks by name at each boundary, L-1 of them.

    Args:
        backbone: The network.
        names: Of them.
        where_possible: Whether those that cannot stand somewhere are left out there.

    Returns:
        One cost; of a teacher that reads what its block is given, one for each first layer of the
        block.

    Raises:
        InputError: if a name is unknown, or a teacher cannot stand somewhere.
    """
    known: dict[tuple[str, AuxiliaryContext], Cost] = {}  # places of equal shape cost the same

    def cost(name: str, context: AuxiliaryContext) -> Cost:
        if (name, context) not in known:
            known[name, context] = auxiliary_cost(name, context)
        return known[name, context]

    costs = []
    for boundary in range(backbone.num_layers - 1):
        here = {}
        for name in names:
            contexts = places(backbone, boundary, name)
            try:
                here[name] = [cost(name, context) for context in contexts]
            except InputError as error:
                if not where_possible or isinstance(error, _UncountableError):
                    raise
        costs.append(here)
    return costs


def relaxed_cost(backbone: Backbone, aux_choices: Sequence[str]) -> Cost:
    """Return the cost of a backbone and, at every boundary, of all auxiliary candidates.

    Raises:
        InputError: if a name is unknown.
    """
    costs = auxiliary_costs(backbone, aux_choices)
    candidates = [first for here in costs for first, *_ in here.values()]
    return sum([*layer_costs(backbone), head_cost(backbone), *candidates], Cost(0, 0))


def beginning_cost(
    backbone: Backbone, kind: CutKind | None, cut: int, first: int, shared: Cost
) -> Cost:
    """Return what a block costs more in training because of the kind of the cut below it.

    That is the encoder of its context or, above an overlap, the layer that it computes again, whose
    parameters are there anyway.

    Args:
        backbone: The network.
        kind: Of the cut, None of a plain one.
        cut: At which boundary it is.
        first: The first layer of the block below.
        shared: Cost of the layer below the cut.
    """
    if kind == "overlap":
        return Cost(0, shared.macs)
    with torch.device("meta"):
        context = build_context(backbone, kind, cut, first)
    return Cost(0, 0) if context is None else _cost(context, context.source)


def block_costs(backbone: Backbone, decoupling: Decoupling) -> list[BlockCost]:
    """Return the cost of each block, K of them.

    Raises:
        InputError: if the decoupling does not fit the backbone.
    """
    if decoupling.backbone != backbone.name:
        raise InputError.rule(
            "decoupling.backbone", f"must be {backbone.name}", decoupling.backbone
        )
    layers = layer_costs(backbone)
    costs = []
    kinds, first = [None, *decoupling.kinds], 0
    for index, block in enumerate(decoupling.blocks(backbone.num_layers)):
        kind, cut = kinds[index], block.start - 1
        beginning = beginning_cost(backbone, kind, cut, first, layers[cut])
        first = block.start
        own = sum((layers[layer] for layer in block), Cost(0, 0))
        if index < len(decoupling.cuts):
            aux = decoupling.aux[index]
            auxiliary = Cost(0, 0)
            if network_at(aux) != NO_AUXILIARY:
                context = auxiliary_context(backbone, decoupling.cuts[index], aux, block.start)
                auxiliary = auxiliary_cost(aux, context)
            costs.append(BlockCost(block[0], block[-1], own, aux, auxiliary, kind, beginning))
        else:
            whole = own + head_cost(backbone)
            nothing = Cost(0, 0)
            costs.append(BlockCost(block[0], block[-1], whole, None, nothing, kind, beginning))
    return costs


def summarise_blocks(blocks: Sequence[BlockCost]) -> dict[str, float]:
    """Return what the sizes of the blocks promise, by MACs.

    Returns:
        ``largest_share``: share of the backbone's MACs in the largest block, auxiliary networks
        left out. ``ideal_speedup``: 1 / largest_share, the gain of a K-stage pipeline over
        back-propagation on one device when transfers and auxiliary networks cost nothing.
        ``ideal_speedup_with_auxiliary``: the same with each auxiliary network counted in its block,
        and what a cut of a further kind costs in the block above it. With such cuts blocks are
        trained in one process, and both are what one would gain otherwise.
    """
    total = sum(block.backbone.macs for block in blocks)
    largest = max(block.backbone.macs for block in blocks)
    slowest = max(block.training.macs for block in blocks)
    return {
        "largest_share": largest / total,
        "ideal_speedup": total / largest,
        "ideal_speedup_with_auxiliary": total / slowest,
    }


def heavy_auxiliary(backbone: Backbone, decoupling: Decoupling) -> str | None:
    """Return a warning if a decoupling's auxiliary networks outweigh the backbone, else None.

    Raises:
        InputError: if the decoupling does not fit the backbone.
    """
    blocks = block_costs(backbone, decoupling)
    own = sum(block.backbone.parameters for block in blocks)
    auxiliary = sum(block.auxiliary.parameters for block in blocks)
    if auxiliary <= own:
        return None
    return (
        f"the auxiliary networks have {auxiliary / 1e6:,.1f} million parameters, the backbone "
        f"{own / 1e6:,.1f}; conv1 is light at every width"
    )


def describe(
    backbone: Backbone,
    decoupling: Decoupling | None = None,
    *,
    aux_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return what a backbone, and a decoupling of it, is made of and costs; fit for JSON.

    Build the backbone under ``torch.device("meta")``: its weights are not needed.

    Args:
        backbone: The backbone.
        decoupling: Where it is cut; by default it is one block.
        aux_names: Auxiliary networks to list at each boundary, by default all that can stand there.

    Returns:
        ``stem``, what `stem_words` returns; ``parameters`` and ``macs``, each with ``trunk``,
        ``head`` and ``total``; ``layers`` with index and name, of the output its shape, layout,
        width and size, see `FeatureShape`, and parameters and macs; ``boundaries`` with the name
        and output of the layer below, the share of the backbone's MACs below and, under
        ``auxiliary``, each candidate's parameters and macs, there at the end of a block of all
        layers below; ``blocks`` with index, first_layer, last_layer, parameters, macs, share of the
        backbone's MACs, aux and, under ``auxiliary``, its parameters and macs, kind of the cut
        below and, under ``beginning``, what that costs; ``inference`` with the parameters and macs
        of the network without auxiliary networks, and ``parallel``, whether blocks can be trained
        in processes of their own, as far as cuts are concerned; what `summarise_blocks` returns;
        and
        ``decoupling``.

    Raises:
        InputError: if the decoupling does not fit the backbone or a name is unknown.

    Examples:
        >>> import torch
        >>> from sedona_nni import build_backbone, decoupling_by_rule, describe
        >>> with torch.device("meta"):
        ...     backbone = build_backbone("vgg19", num_classes=10)
        >>> described = describe(backbone, decoupling_by_rule("uniform:4:mlp-sr", "vgg19", 16))
        >>> [round(block["share"], 3) for block in described["blocks"]]
        [0.24, 0.313, 0.313, 0.134]
    """
    layers, head = layer_costs(backbone), head_cost(backbone)
    trunk = sum(layers, Cost(0, 0))
    names = auxiliary_names() if aux_names is None else aux_names
    candidates = auxiliary_costs(backbone, names, where_possible=aux_names is None)
    described: dict[str, Any] = {
        "backbone": backbone.name,
        "width_multiplier": backbone.width_multiplier,
        "image_size": backbone.image_size,
        "in_channels": backbone.in_channels,
        "num_classes": backbone.num_classes,
        "stem": stem_words(backbone),
    }
    for field in ("parameters", "macs"):
        parts = {"trunk": getattr(trunk, field), "head": getattr(head, field)}
        described[field] = {**parts, "total": sum(parts.values())}
    described["layers"] = [
        {"index": i, "name": name, **_in_words(shape), **asdict(cost)}
        for i, (name, shape, cost) in enumerate(
            zip(backbone.layer_names, backbone.shapes, layers, strict=True)
        )
    ]
    below = itertools.accumulate(cost.macs for cost in layers)
    described["boundaries"] = [
        {
            "index": i,
            "name": name,
            **_in_words(shape),
            "share": macs / described["macs"]["total"],
            "auxiliary": {name: asdict(first) for name, (first, *_) in here.items()},
        }
        for i, (name, shape, here, macs) in enumerate(
            zip(backbone.layer_names, backbone.boundaries, candidates, below, strict=False)
        )
    ]
    decoupling = decoupling or Decoupling(backbone=backbone.name)
    blocks = block_costs(backbone, decoupling)
    described["decoupling"] = decoupling.model_dump(mode="json")
    described["blocks"] = [
        {
            "index": i,
            "first_layer": block.first_layer,
            "last_layer": block.last_layer,
            **asdict(block.backbone),
            "share": block.backbone.macs / described["macs"]["total"],
            "aux": block.aux,
            "auxiliary": asdict(block.auxiliary),
            "kind": block.kind,
            "beginning": asdict(block.beginning),
        }
        for i, block in enumerate(blocks)
    ]
    used = sum((block.backbone + block.context for block in blocks), Cost(0, 0))
    described["inference"] = asdict(used)
    described["parallel"] = not any(looks(name) for name in decoupling.aux if name != NO_AUXILIARY)
    return described | summarise_blocks(blocks)


def _in_words(shape: FeatureShape) -> dict[str, Any]:
    return {
        "shape": list(shape.of_batch(1)[1:]),
        "layout": shape.layout,
        "width": shape.channels,
        "size": shape.size,
    }


def peak_memory_mib(step: Callable[[], object], device: torch.device) -> float:
    """Return the most memory that torch allocates while ``step`` runs, MiB.

    Counted above what was allocated before. On CUDA the allocator keeps the count. On the CPU the
    profiler records each allocation and release of torch's allocator, and the step takes longer;
    a tensor that was there before the step and is released in it lowers the CUDA count only.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    # Read when the profiler first starts; lower levels write to the terminal at each start and stop
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    records = profile.profiler.kineto_results.events()
    memory = sorted(
        (record for record in records if record.name() == "[memory]"), key=lambda r: r.start_ns()
    )
    totals = itertools.accumulate((record.nbytes() for record in memory), initial=0)
    return max(totals) / 2**20
