"""Where a model can be cut into layers, and which of the places are chosen.

A place is where exactly one tensor crosses, see `crossings`, and nobody writes into it later. Cut
there, no weight may be used on both sides, and no buffer that the model writes: it would belong to
two layers.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, fx

from sedona_nni.errors import InputError
from sedona_nni.models.cutting.crossings import (
    Crossing,
    find_crossings,
    free_nodes,
    live_sets,
    made_for,
)
from sedona_nni.models.cutting.following import Trace
from sedona_nni.models.cutting.units import unit_ends

__all__ = ["Boundaries", "Place", "choose_places", "find_places"]

Boundaries = Literal["all", "units"] | int | Sequence[str]


@dataclass(frozen=True)
class Place:
    """A place that one tensor crosses.

    Attributes:
        name: The module that returns it (``layer2.3``) or the code it is in and its operator.
        shape: Its shape without the batch.
        share: Share of the model's MACs that are computed before it.
        unit: Whether a unit ends here.
        weights: Names of weights that are used on both sides, and of buffers that are written; with
            any it cannot be cut.
        node: What crosses.
        index: Of the last node before the place.
    """

    name: str
    shape: tuple[int, ...]
    share: float
    unit: bool
    weights: tuple[str, ...]
    node: fx.Node
    index: int


def find_places(trace: Trace) -> list[Place]:
    """Find every place that one tensor crosses, in the order of the model.

    Raises:
        InputError: if there is none; it says how many cross where the fewest do.

    Examples:
        >>> import torch, torchvision
        >>> from sedona_nni.models.cutting.cut_points import find_places
        >>> from sedona_nni.models.cutting.tracing import trace
        >>> traced = trace(torchvision.models.resnet18(), torch.zeros(1, 3, 64, 64))
        >>> [(place.name, place.shape) for place in find_places(traced) if place.unit][:2]
        [('layer1.0', (64, 16, 16)), ('layer1.1', (64, 16, 16))]
    """
    free = free_nodes(trace.graph)
    crossings = find_crossings(trace, free)
    macs = [*itertools.accumulate(node.meta.get("macs", 0) for node in trace.graph.nodes)]
    units = unit_ends(trace, crossings)
    weights = _uses_of_weights(trace, free)
    names = _names(trace, crossings, units)
    if not names:
        rule = "must have a place that one tensor crosses"
        raise InputError.rule("model", rule, _narrowest(trace, free, macs))
    return [
        Place(
            name,
            each.shape,
            macs[each.index] / max(macs[-1], 1),
            each.node in units,
            tuple(weight for weight, uses in weights if uses[0] <= each.index < uses[-1]),
            each.node,
            each.index,
        )
        for each, name in names.items()
    ]


def _narrowest(trace: Trace, free: set[fx.Node], macs: Sequence[int]) -> str:
    """Return what crosses where the fewest do, between what computes, and what was kept whole."""
    inner = [
        live
        for index, live in enumerate(live_sets(trace, free))
        if 0 < macs[index] < macs[-1] and live
    ]
    (given,) = trace.graph.find_nodes(op="placeholder")
    crossing = min(reversed(inner), key=lambda live: (given in live, len(live)), default=set())
    tensors = [
        f"{node.target if node.op == 'call_module' else _own_name(node)} ({', '.join(sizes)})"
        for node in trace.graph.nodes
        if node in crossing and isinstance(value := node.meta["value"], Tensor)
        for sizes in [["B" if size == trace.batch else str(size) for size in value.shape]]
    ]
    what = f"at the least {' and '.join(tensors)} cross" if tensors else "nothing crosses"
    whole = [f"{path} is kept whole: {why}" for path, why in trace.whole.items()]
    return "; ".join([f"{type(trace.model).__name__}: {what}", *whole])


def _own_name(node: fx.Node) -> str:
    return f"{node.meta['scope']}.{node.name}".lstrip(".")


def _uses_of_weights(trace: Trace, free: set[fx.Node]) -> list[tuple[str, list[int]]]:
    """Return the names of the weights and of buffers that are written, and where each is used."""
    names = {id(weight): name for name, weight in trace.model.named_parameters()}
    kept = set[int]().union(*(node.meta.get("keeps", ()) for node in trace.graph.nodes))
    names |= {id(x): name for name, x in trace.model.named_buffers() if id(x) in kept}
    uses: defaultdict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(trace.graph.nodes):
        for each in () if node in free else (*made_for(node, free), node):
            used = [each.meta.get("value")]
            if each.op == "call_module":
                module = trace.model.get_submodule(str(each.target))
                used = [*module.parameters(), *module.buffers()]
            elif each.op != "get_attr":
                continue
            for weight in used:
                if id(weight) in names:
                    uses[names[id(weight)]].append(index)
    return list(uses.items())


def _names(
    trace: Trace, crossings: Sequence[Crossing], units: dict[fx.Node, str]
) -> dict[Crossing, str]:
    """Return the places, and a name of its own for each."""
    places = [crossing for crossing in crossings if crossing.kept]
    names: dict[Crossing, str] = {}
    taken: set[str] = set()
    for place in places:
        returning = [
            call.path
            for call in trace.calls
            if call.result is place.node
            and not any(call.start <= p.index < place.index for p in places)
        ]
        name = units.get(place.node) or next(iter(returning), _own_name(place.node))
        numbered = (name if n == 1 else f"{name}:{n}" for n in itertools.count(1))
        names[place] = next(each for each in numbered if each not in taken)
        taken.add(names[place])
    return names


def choose_places(places: Sequence[Place], boundaries: Boundaries) -> list[Place]:
    """Choose where layers end; what follows the last is the head.

    The last layer ends with the last unit, so that pooling, norm and classifier are the head.

    Args:
        places: What `find_places` returns.
        boundaries: ``all`` places; the ends of ``units``; n, so many layers, of units if there are
            as many, whose largest has the fewest MACs that are possible; or names of places.

    Raises:
        InputError: if there are not so many places, a name is not one, or weights are used on both
            sides of it.
    """
    open_ = [place for place in places if not place.weights]
    ends = [place for place in open_ if place.unit] or open_
    if not ends:
        weights = sorted({weight for place in places for weight in place.weights})
        rule = "must have a place that one tensor crosses, with nothing that learns on both sides"
        raise InputError.rule("model", rule, weights)
    below = [place for place in open_ if place.index <= ends[-1].index]
    if boundaries == "all":
        return below
    if boundaries == "units":
        return ends
    if isinstance(boundaries, int):
        from_ = ends if boundaries <= len(ends) else below
        if not 1 <= boundaries <= len(from_):
            raise InputError.rule("boundaries", f"must be 1 to {len(from_)} layers", boundaries)
        return _balanced(from_, boundaries)
    if isinstance(boundaries, str):
        rule = "must be all, units, a number of layers or a list of names"
        raise InputError.rule("boundaries", rule, boundaries)
    known = {place.name: place for place in below}
    for name in boundaries:
        if name not in known or known[name] is ends[-1]:
            for place in places:
                if place.name == name and place.weights:
                    rule = f"must not part the uses of {', '.join(place.weights)}; may be at"
                    raise InputError.rule("boundaries", f"{rule} {', '.join(known)}", name)
            rule = f"must be below the head, at {', '.join([*known][:-1])}"
            raise InputError.rule("boundaries", rule, name)
    return [place for place in below if place.name in {*boundaries, ends[-1].name}]


def _balanced(places: Sequence[Place], layers: int) -> list[Place]:
    """Return the last place and ``layers`` - 1 before it, so that the largest share is minimal.

    The head counts in the last layer. best[e] is, of all choices that end with place e, the one
    whose largest share is smallest, of one layer, then of two, and so on.
    """
    shares = [place.share for place in places[:-1]] + [1.0]
    best: dict[int, tuple[float, list[int]]] = {e: (s, [e]) for e, s in enumerate(shares)}
    for _ in range(layers - 1):
        best = {
            e: min(
                (max(largest, shares[e] - shares[start]), [*chosen, e])
                for start, (largest, chosen) in best.items()
                if start < e
            )
            for e in range(min(best) + 1, len(shares))
        }
    return [places[e] for e in best[len(places) - 1][1]]
