"""From the graph of a model and the places where it is cut to what each piece does.

A module that no cut goes through is one step. Of the others the steps are those of their code. What
is free (see `crossings`) is made in each piece that needs it, before its first use.
"""

from __future__ import annotations

import bisect
import operator
from collections.abc import Sequence
from typing import Any

from torch import fx

from sedona_nni.models.cutting.crossings import free_nodes, made_for
from sedona_nni.models.cutting.cut_points import Place
from sedona_nni.models.cutting.following import Call, Trace, reads_input
from sedona_nni.models.cutting.piece import PiecePlan, Step, Value

__all__ = ["plan_pieces"]


def plan_pieces(traced: Trace, places: Sequence[Place]) -> tuple[list[PiecePlan], list[str]]:
    """Return what each layer does, then what the head does.

    Args:
        traced: The model.
        places: Where layers end, in the order of the model.

    Returns:
        The pieces, and the names of the modules that are taken apart; the model itself is ``""``.
    """
    ends = [place.index for place in places]
    calls = _whole_calls(traced, ends)
    graph, new, origin = _with_whole_modules(traced, calls)
    free = free_nodes(graph)
    (output,) = graph.find_nodes(op="output")
    (given,) = graph.find_nodes(op="placeholder")
    crossing = [given, *(new[place.node] for place in places), output.args[0]]
    runs: list[list[fx.Node]] = [[] for _ in range(len(places) + 1)]
    for node in graph.nodes:
        if node not in free and node.op not in ("placeholder", "output"):
            run = runs[bisect.bisect_left(ends, origin[node])]
            run += [each for each in made_for(node, free) if each not in run] + [node]
    pieces = [
        _plan(run, below, above, traced.batch)
        for run, below, above in zip(runs, crossing[:-1], crossing[1:], strict=True)
    ]
    apart = [
        call.path
        for call in traced.calls
        if not any(whole.start <= call.start < whole.stop for whole in calls.values())
    ]
    return pieces, ["", *dict.fromkeys(apart)]


def _whole_calls(traced: Trace, cuts: Sequence[int]) -> dict[int, Call]:
    """Return the calls that may be one step, by their first node."""
    nodes = list(traced.graph.nodes)
    index = {node: number for number, node in enumerate(nodes)}
    return {call.start: call for call in traced.calls if _can_be_whole(call, cuts, nodes, index)}


def _can_be_whole(
    call: Call, cuts: Sequence[int], nodes: list[fx.Node], index: dict[fx.Node, int]
) -> bool:
    if any(call.start <= cut < call.stop - 1 for cut in cuts):
        return False
    returned = call.output if isinstance(call.output, tuple | list) else [call.output]
    if any(isinstance(each, tuple | list | dict) for each in returned):
        return False
    return not any(  # what is used outside is returned
        index[user] >= call.stop
        for node in nodes[call.start : call.stop]
        if node not in returned
        for user in node.users
    )


def _with_whole_modules(
    traced: Trace, calls: dict[int, Call]
) -> tuple[fx.Graph, dict[fx.Node, fx.Node], dict[fx.Node, int]]:
    """Return the graph in which each of these calls is one node.

    Returns:
        The graph, its node for each of the old ones that are left, and of each of its nodes the
        index of the last old one that it stands for.
    """
    nodes = list(traced.graph.nodes)
    graph = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    origin: dict[fx.Node, int] = {}
    number = 0
    while number < len(nodes):
        call = calls.get(number)
        if call is None:
            made = new[nodes[number]] = graph.node_copy(nodes[number], new.__getitem__)
            number += 1
        else:
            args, kwargs = fx.node.map_arg((call.args, call.kwargs), new.__getitem__)
            made = graph.call_module(call.path, tuple(args), dict(kwargs))
            run = [node.meta for node in nodes[call.start : call.stop]]
            made.meta = {
                "value": fx.node.map_arg(call.output, lambda node: node.meta["value"]),
                "random": any(meta["random"] for meta in run),
                "changes": set().union(*(meta["changes"] for meta in run)),
            }
            number = call.stop
            if isinstance(call.output, fx.Node):
                new[call.output] = made
            else:
                for place, node in enumerate(call.output):
                    if isinstance(node, fx.Node):
                        new[node] = graph.call_function(operator.getitem, (made, place))
                        new[node].meta = {**node.meta, "changes": set(), "random": False}
                        origin[new[node]] = number - 1
        origin[made] = number - 1
    return graph, new, origin


def _plan(run: Sequence[fx.Node], given: fx.Node, returned: fx.Node, batch: int) -> PiecePlan:
    """Return what a piece does that has these nodes."""
    numbers = {given: 0, **{node: number for number, node in enumerate(run, start=1)}}
    last = dict(enumerate(range(len(run) + 1)))  # what nobody uses goes at once
    for node in run:
        for each in () if reads_input(node) else node.all_input_nodes:
            last[numbers[each]] = numbers[node]
    del last[numbers[returned]]

    def plain(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return Value(numbers[argument])
        if isinstance(argument, tuple):
            return tuple(map(plain, argument))
        if isinstance(argument, list):
            return [*map(plain, argument)]
        if isinstance(argument, dict):
            return {key: plain(each) for key, each in argument.items()}
        if isinstance(argument, slice):
            return slice(*map(plain, (argument.start, argument.stop, argument.step)))
        return argument

    steps = []
    for number, node in enumerate(run, start=1):
        done = tuple(each for each, step in last.items() if step == number)
        if reads_input(node):
            value = node.meta["value"]
            multiple = value // batch if isinstance(value, int) else None
            steps.append(Step("device" if multiple is None else "batch", multiple, (), {}, done))
        else:
            args, kwargs = plain(node.args), plain(node.kwargs)
            steps.append(Step(node.op, node.target, args, kwargs, done))
    return PiecePlan(tuple(steps), numbers[returned])
