"""Where a traced model can be cut: the places that exactly one tensor crosses.

Notation (nodes v_0 ... v_n in the order in which the model computes, see `tracing`):
    free      a node that any layer can make for itself: weights, constants, multiples of the batch
              size, and what follows from these alone. Nothing random, nothing written into
    last(v)   the last j such that v_j uses v
    live(j)   {v_i not free: i <= j < last(v_i)}, what must be known after v_j
    place     a j with live(j) = {v}: v crosses. One for each v, the first
    weights   of a place: those that are used both up to j and after it. There must be none
A tensor that is written into after the place (by ``ReLU(inplace=True)``, say) would change under
those that read it there; its place is not one, but that after the write mostly is. What crosses is
real, and its first dimension is the batch.

A *unit* is a call of a module that ends at a place and is not divided by others: between its
inner places with a module's name, not more than one part computes. A class is undivided if one
call of it is; so a block of a stage is a unit also where a stride leaves it without shortcut. If
some units have two weights or more (residual blocks, encoder layers), these alone are units, and
what lies between them, a stem, a downsampling, belongs to the next. Otherwise each convolution is
one, with the norm and activation that follow it.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, fx

from sedona_nni.errors import InputError
from sedona_nni.models.tracing import Call, Trace, count_weights, is_multiple

__all__ = [
    "Boundaries",
    "Place",
    "choose_places",
    "find_places",
    "free_nodes",
    "is_batch_read",
    "made_for",
]

Boundaries = Literal["all", "units"] | int | Sequence[str]


@dataclass(frozen=True)
class Place:
    """A place that one tensor crosses.

    Attributes:
        name: The module that returns it (``layer2.3``) or the code it is in and its operator.
        shape: Its shape without the batch.
        share: Share of the model's MACs that are computed before it.
        unit: Whether a unit ends here.
        weights: Names of weights that are used on both sides; with any it cannot be cut.
        node: What crosses.
        index: j, the place in the graph.
    """

    name: str
    shape: tuple[int, ...]
    share: float
    unit: bool
    weights: tuple[str, ...]
    node: fx.Node
    index: int


@dataclass(frozen=True)
class _Crossing:
    """A node that crosses alone at ``index``; ``kept`` if nobody writes into it later."""

    node: fx.Node
    index: int
    kept: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.node.meta["value"].shape[1:])


def free_nodes(graph: fx.Graph, batch: int) -> set[fx.Node]:
    """Return the nodes that each layer can make for itself."""
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    written = set().union(*(node.meta["changes"] for node in nodes))
    free: set[fx.Node] = set()
    for node in nodes:
        value = node.meta["value"]
        if node.op == "get_attr" or (node.op == "call_method" and is_multiple(value, batch)):
            free.add(node)
        elif free.issuperset(node.all_input_nodes) and not node.meta["random"]:
            if isinstance(value, Tensor) and _memory(node) in written:
                continue
            free.add(node)
    return free


def made_for(node: fx.Node, free: set[fx.Node]) -> list[fx.Node]:
    """Return the free nodes that a node needs, each after those that it needs itself."""
    needed: dict[fx.Node, None] = {}
    for each in node.all_input_nodes:
        if each in free:
            # The tensor of which a size is read is not needed: the layer's own input has the batch
            inner = [] if is_batch_read(each) else made_for(each, free)
            needed |= dict.fromkeys([*inner, each])
    return list(needed)


def is_batch_read(node: fx.Node) -> bool:
    """Return whether a node reads a size that is a multiple of the batch's."""
    return node.op == "call_method" and type(node.meta["value"]) is int


def _memory(node: fx.Node) -> int:
    return id(node.meta["value"].untyped_storage())


def find_places(trace: Trace) -> list[Place]:
    """Find every place that one tensor crosses, in the order of the model.

    Examples:
        >>> import torch, torchvision
        >>> from sedona_nni.models.cut_points import find_places
        >>> from sedona_nni.models.tracing import trace
        >>> traced = trace(torchvision.models.resnet18(), torch.zeros(1, 3, 64, 64))
        >>> [(place.name, place.shape) for place in find_places(traced) if place.unit][:2]
        [('layer1.0', (64, 16, 16)), ('layer1.1', (64, 16, 16))]
    """
    nodes = list(trace.graph.nodes)
    free = free_nodes(trace.graph, trace.batch)
    macs = [0, *itertools.accumulate(node.meta.get("macs", 0) for node in nodes)]
    crossings = _crossings(nodes, free, trace.batch)
    units = _units(trace, crossings, macs)
    weights = _uses_of_weights(trace, nodes, free)
    names = _names(trace, [each for each in crossings if each.kept], units)
    return [
        Place(
            name,
            each.shape,
            macs[each.index + 1] / max(macs[-1], 1),
            each.node in units,
            tuple(weight for weight, uses in weights if uses[0] <= each.index < uses[-1]),
            each.node,
            each.index,
        )
        for each, name in names.items()
    ]


def _crossings(nodes: list[fx.Node], free: set[fx.Node], batch: int) -> list[_Crossing]:
    last: dict[fx.Node, int] = {}
    written: defaultdict[int, int] = defaultdict(int)
    for index, node in enumerate(nodes):
        if node not in free:
            last |= dict.fromkeys(node.all_input_nodes, index)
        written |= dict.fromkeys(node.meta.get("changes", ()), index)
    end = max(i for i, node in enumerate(nodes[:-1]) if node not in free)
    found: dict[fx.Node, _Crossing] = {}
    live: set[fx.Node] = set()
    for index, node in enumerate(nodes[:end]):
        live = {each for each in (*live, node) if each not in free and last.get(each, 0) > index}
        for crossing in live if len(live) == 1 else ():
            value = crossing.meta["value"]
            if (
                crossing.op != "placeholder"
                and isinstance(value, Tensor)
                and value.is_floating_point()
                and value.dim() >= 2
                and value.shape[0] == batch
            ):
                kept = written[_memory(crossing)] <= index
                found.setdefault(crossing, _Crossing(crossing, index, kept))
    return list(found.values())


def _uses_of_weights(
    trace: Trace, nodes: list[fx.Node], free: set[fx.Node]
) -> list[tuple[str, list[int]]]:
    """Return the names of the weights, and where each is used."""
    names = {id(weight): name for name, weight in trace.model.named_parameters()}
    uses: defaultdict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(nodes):
        for each in () if node in free else (*made_for(node, free), node):
            used = [each.meta.get("value")]
            if each.op == "call_module":
                used = [*trace.model.get_submodule(str(each.target)).parameters()]
            elif each.op != "get_attr":
                continue
            for weight in used:
                if id(weight) in names:
                    uses[names[id(weight)]].append(index)
    return list(uses.items())


def _units(trace: Trace, crossings: list[_Crossing], macs: list[int]) -> dict[fx.Node, str]:
    """Return where units end, and their names."""
    at = {each.node: each for each in crossings}
    modules = dict(trace.model.named_modules())
    ending = [
        call for call in trace.calls if call.result in at and macs[call.stop] > macs[call.start]
    ]
    classes = {id(call): type(modules[call.path]) for call in ending}
    inner = {
        id(call): [c for c in ending if call.start <= c.start and c.stop <= call.stop]
        for call in ending
    }

    def is_torchs(call: Call) -> bool:
        return classes[id(call)].__module__.startswith("torch.nn.")

    def is_block(call: Call) -> bool:
        return not is_torchs(call) and count_weights(modules[call.path]) > 1

    def is_whole(call: Call) -> bool:
        return not any(
            (c.result is not call.result and macs[c.stop] < macs[call.stop])  # it divides
            or (
                c is not call
                and not is_torchs(c)
                and macs[c.stop] - macs[c.start] == macs[call.stop] - macs[call.start]
            )  # the call only wraps it
            for c in inner[id(call)]
        )

    def repeated(calls: list[Call]) -> set[type]:
        counts = Counter(classes[id(call)] for call in calls if is_block(call))
        return {each for each, count in counts.items() if count > 1}

    whole = {id(call) for call in ending if is_whole(call)}
    stages = {classes[id(c)] for c in ending if is_block(c) and repeated(inner[id(c)][1:])}
    kinds = {classes[id(c)] for c in ending if id(c) in whole and not is_torchs(c)}
    kinds |= repeated(ending) - stages
    kinds |= {  # what holds one block, and weights beside it, is one
        classes[id(c)] for c in ending if is_block(c) and sum(map(is_block, inner[id(c)])) == 2
    } - stages
    units: list[Call] = []
    for call in ending:
        inside = units and call.start < units[-1].stop
        if not inside and (id(call) in whole or classes[id(call)] in kinds):
            units.append(call)
    large = {classes[id(call)] for call in ending if is_block(call)}
    blocks = [
        call
        for call in units
        if classes[id(call)] in large or count_weights(modules[call.path]) > 1
    ]
    computed = [sum(macs[c.stop] - macs[c.start] for c in run) for run in (blocks, units)]
    ends: dict[fx.Node, str] = {}
    for call in blocks if 2 * computed[0] >= computed[1] else units:
        end = next(each for each in crossings if each.node is call.result)
        # As long as nothing is computed, and nothing pooled
        same = [
            each
            for each in crossings
            if each.index >= end.index
            and each.shape == end.shape
            and macs[each.index + 1] == macs[call.stop]
            and each.kept
        ]
        if same:
            last = same[-1] if is_torchs(call) else same[0]
            ends[last.node] = call.path if last is end else ""
    maps = {node: name for node, name in ends.items() if len(at[node].shape) > 1}
    return maps or ends  # what is a vector by then belongs to the head


def _names(
    trace: Trace, places: list[_Crossing], units: dict[fx.Node, str]
) -> dict[_Crossing, str]:
    names: dict[_Crossing, str] = {}
    taken: set[str] = set()
    for place in places:
        returning = [
            call.path
            for call in trace.calls
            if call.result is place.node
            and not any(call.start <= p.index < place.index for p in places)
        ]
        own = f"{place.node.meta['scope']}.{place.node.name}".lstrip(".")
        name = units.get(place.node) or next(iter(returning), own)
        numbered = (name if n == 1 else f"{name}:{n}" for n in itertools.count(1))
        names[place] = next(each for each in numbered if each not in taken)
        taken.add(names[place])
    return names


def choose_places(places: Sequence[Place], boundaries: Boundaries) -> list[Place]:
    """Choose where layers end; what follows the last is the head.

    The last layer ends with the last unit, so that pooling, norm and classifier are the head.

    Args:
        places: What `find_places` returns.
        boundaries: ``all`` places; the ends of ``units``; n, so many layers, whose largest has the
            fewest MACs that are possible; or the names of places.

    Raises:
        InputError: if there are not so many places, a name is not one, or weights are used on both
            sides of it.
    """
    open_ = [place for place in places if not place.weights]
    ends = [place for place in open_ if place.unit] or open_
    if not ends:
        weights = sorted({weight for place in places for weight in place.weights})
        rule = "must have a place that one tensor crosses, with no weight used on both sides"
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
    """Return the last place and ``layers`` - 1 before it, so that the largest share is minimal."""
    best: dict[int, tuple[float, list[Place]]] = {-1: (0.0, [])}
    for _ in range(layers):
        longer: dict[int, tuple[float, list[Place]]] = {}
        for end, place in enumerate(places):
            options = [
                (max(largest, place.share - (chosen[-1].share if chosen else 0.0)), start)
                for start, (largest, chosen) in best.items()
                if start < end
            ]
            if options:
                largest, start = min(options)
                longer[end] = (largest, [*best[start][1], place])
        best = longer
    return best[len(places) - 1][1]
