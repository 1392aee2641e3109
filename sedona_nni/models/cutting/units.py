"""The units of a model: residual blocks, encoder layers, or single convolutions.

Of the calls of modules that compute something and return what crosses alone (see `crossings`):
    inner    those within a call
    whole    a call with no inner one after which it still computes, and that is no mere wrapper
    block    a call of a class that is not torch's own and has two weights or more
    stage    a class of blocks of which one call has two inner blocks of one class
    unit     an outermost call that is whole, or whose class has a whole call, or is of blocks, no
             stage, and called more than once or with one inner block
A block of a residual network is whole; those of the same class without a shortcut, where a stride
leaves none, are units by their class. If blocks compute half of what units do, they alone are the
units: stem and downsampling then belong to the next, and a last convolution to the head. Else a
convolution of torch's is one, with the norm, activation and dropout that follow it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import fx, nn

from sedona_nni.models.cutting.crossings import Crossing
from sedona_nni.models.cutting.following import Trace, count_weights

__all__ = ["unit_ends"]


@dataclass(eq=False)
class _Call:
    """A call; ``before`` and ``until`` are the MACs up to its start and its end."""

    path: str
    end: Crossing
    module: nn.Module
    before: int
    until: int
    inner: list[_Call]

    @property
    def macs(self) -> int:
        return self.until - self.before

    @property
    def kind(self) -> type:
        return type(self.module)

    @property
    def is_torchs(self) -> bool:
        return self.kind.__module__.startswith("torch.nn.")

    @property
    def is_block(self) -> bool:
        return not self.is_torchs and count_weights(self.module) > 1

    @property
    def is_whole(self) -> bool:
        divided = any(c.end is not self.end and c.until < self.until for c in self.inner)
        wrapper = any(c.macs == self.macs and not c.is_torchs for c in self.inner)
        return not divided and not wrapper


def _calls(trace: Trace, crossings: Sequence[Crossing]) -> list[_Call]:
    macs = [0, *itertools.accumulate(node.meta.get("macs", 0) for node in trace.graph.nodes)]
    at = {crossing.node: crossing for crossing in crossings}
    modules = dict(trace.model.named_modules())
    found: list[_Call] = []
    around: list[tuple[int, _Call]] = []  # calls, outer first, and where they stop
    for call in trace.calls:
        around = [(stop, outer) for stop, outer in around if call.start < stop]
        if call.result in at and macs[call.stop] > macs[call.start]:
            before, until = macs[call.start], macs[call.stop]
            this = _Call(call.path, at[call.result], modules[call.path], before, until, [])
            for _, outer in around:
                outer.inner.append(this)
            around.append((call.stop, this))
            found.append(this)
    return found


def _repeated(calls: Iterable[_Call]) -> set[type]:
    """Return the classes of blocks that are called more than once."""
    counts = Counter(call.kind for call in calls if call.is_block)
    return {kind for kind, count in counts.items() if count > 1}


def unit_ends(trace: Trace, crossings: Sequence[Crossing]) -> dict[fx.Node, str]:
    """Return what crosses where units end, and the units' names.

    A name is empty if the unit's own end is not kept, and the next crossing is meant. Ends that
    are vectors are left out if some are not: by then it is the head.
    """
    calls = _calls(trace, crossings)
    blocks = [call for call in calls if call.is_block]
    whole = {call for call in calls if call.is_whole}
    stages = {call.kind for call in blocks if _repeated(call.inner)}
    holders = {call.kind for call in blocks if sum(c.is_block for c in call.inner) == 1}
    kinds = {call.kind for call in whole if not call.is_torchs}
    kinds |= (_repeated(calls) | holders) - stages
    units = [call for call in calls if call in whole or call.kind in kinds]
    inside = {inner for unit in units for inner in unit.inner}
    units = [unit for unit in units if unit not in inside]
    large = {call.kind for call in blocks}
    chosen = [u for u in units if u.kind in large or count_weights(u.module) > 1]
    if 2 * sum(unit.macs for unit in chosen) < sum(unit.macs for unit in units):
        chosen = units
    ends: dict[fx.Node, str] = {}
    macs = [0, *itertools.accumulate(node.meta.get("macs", 0) for node in trace.graph.nodes)]
    for unit in chosen:
        same = [  # as long as nothing is computed and nothing pooled
            each
            for each in crossings
            if each.index >= unit.end.index
            and each.kept
            and each.shape == unit.end.shape
            and macs[each.index + 1] == unit.until
        ]
        if same:
            end = same[-1] if unit.is_torchs else same[0]
            ends[end.node] = unit.path if end is unit.end else ""
    vectors = {each.node for each in crossings if len(each.shape) == 1}
    return {node: name for node, name in ends.items() if node not in vectors} or ends
