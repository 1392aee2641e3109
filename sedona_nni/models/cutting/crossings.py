"""What crosses each place of a traced model: one pass over its nodes with the set of live values.

Notation (nodes v_0 ... v_n in the order in which the model computes, see `tracing`):
    free      a node that any layer can make for itself: weights, constants, multiples of the batch
              size, the device, and what follows from these alone. Nothing random, nothing written
              into
    last(v)   the last j such that v_j uses v and is not free
    live(j)   {v_i not free: i <= j < last(v_i)}, what must be known after v_j
    crossing  the v of the first j with live(j) = {v}
What crosses is a real tensor whose first dimension is the batch. It is *kept* if nobody writes
into its memory after j. Else, with ``ReLU(inplace=True)`` say, it would change under those that
read it there; then what the write returns is mostly the next crossing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, fx

from sedona_nni.models.cutting.following import Trace, reads_input

__all__ = ["Crossing", "find_crossings", "free_nodes", "live_sets", "made_for"]


@dataclass(frozen=True)
class Crossing:
    """A node that alone is alive after the node of an index.

    Attributes:
        node: v.
        index: j.
        kept: Whether nobody writes into it later.
    """

    node: fx.Node
    index: int
    kept: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape without the batch."""
        return tuple(self.node.meta["value"].shape[1:])


def free_nodes(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that each layer can make for itself."""
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    written = set().union(*(node.meta["changes"] for node in nodes))
    free: set[fx.Node] = set()
    for node in nodes:
        value = node.meta["value"]
        made = free.issuperset(node.all_input_nodes) and not node.meta["random"]
        if isinstance(value, Tensor) and _memory(node) in written:
            made = False
        if made or node.op == "get_attr" or reads_input(node):
            free.add(node)
    return free


def made_for(node: fx.Node, free: set[fx.Node]) -> list[fx.Node]:
    """Return the free nodes that a node needs, each after those that it needs itself.

    The tensor whose size or device is read is not needed: a layer's own input has them, too.
    """
    needed: dict[fx.Node, None] = {}
    for each in node.all_input_nodes:
        if each in free:
            inner = [] if reads_input(each) else made_for(each, free)
            needed |= dict.fromkeys([*inner, each])
    return list(needed)


def find_crossings(trace: Trace, free: set[fx.Node]) -> list[Crossing]:
    """Return all crossings, in the order of the model."""
    written: defaultdict[int, int] = defaultdict(int)
    for index, node in enumerate(trace.graph.nodes):
        written |= dict.fromkeys(node.meta.get("changes", ()), index)
    found: dict[fx.Node, Crossing] = {}
    for index, live in enumerate(live_sets(trace, free)):
        if len(live) == 1:
            (crossing,) = live
            if crossing.op != "placeholder" and _is_batch(crossing, trace.batch):
                kept = written[_memory(crossing)] <= index
                found.setdefault(crossing, Crossing(crossing, index, kept))
    return list(found.values())


def live_sets(trace: Trace, free: set[fx.Node]) -> Iterator[set[fx.Node]]:
    """Yield live(0), live(1) and so on, to before the last node that is not free."""
    nodes = list(trace.graph.nodes)
    last: dict[fx.Node, int] = {}
    for index, node in enumerate(nodes):
        if node not in free:
            last |= dict.fromkeys(node.all_input_nodes, index)
    end = max(i for i, node in enumerate(nodes[:-1]) if node not in free)
    live: set[fx.Node] = set()
    for index, node in enumerate(nodes[:end]):
        live = {each for each in (*live, node) if each not in free and last.get(each, 0) > index}
        yield live


def _is_batch(node: fx.Node, batch: int) -> bool:
    value = node.meta["value"]
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.dim() > 1
        and value.shape[0] == batch
    )


def _memory(node: fx.Node) -> int:
    return id(node.meta["value"].untyped_storage())
