"""A model cut into layers: its own modules, run piece by piece.

    layer_0 ... layer_{L-1}, head    each maps one tensor to one; composed they are the model

A piece holds the model's own modules and weights, the same objects under their own names. So hooks,
modes, buffers and shared weights stay what they are, and a weight is called in the cut model as in
the model but for a prefix, ``layers.3.`` or ``head.``. Between two cuts a module runs as a whole,
by its own code; only modules that a cut goes through are taken apart, as `tracing` followed them.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from sedona_nni.models.cutting.crossings import free_nodes, made_for
from sedona_nni.models.cutting.cut_points import (
    Boundaries,
    Place,
    choose_places,
    find_places,
)
from sedona_nni.models.cutting.following import Call, Trace, reads_batch
from sedona_nni.models.cutting.tracing import trace

__all__ = ["CutModel", "Piece", "cut_model"]


@dataclass(frozen=True)
class _Value:
    """Stands for the result of a step; 0 is what the piece is given."""

    number: int


@dataclass(frozen=True)
class _Step:
    """What a node of torch.fx does, and which results nobody needs after it."""

    op: str  # as there, or "batch": the batch size times the target
    target: Any
    args: Any
    kwargs: Any
    done: tuple[int, ...] = ()


class Piece(nn.Module):
    """Some of a model's nodes, from one tensor to another; its submodules are the model's own."""

    def __init__(self, model: nn.Module, steps: Sequence[_Step], returned: int) -> None:
        super().__init__()
        self.training = model.training
        self.__steps, self.__returned = steps, returned  # mangled: beside them are the model's own
        for step in steps:
            if step.op in ("call_module", "get_attr"):
                _install(self, model, step.target)

    def forward(self, features: Tensor) -> Tensor:
        """Map what crosses below the piece, (B, ...), to what crosses above it."""
        values: dict[int, Any] = {0: features}
        for number, step in enumerate(self.__steps, start=1):
            args, kwargs = _known(step.args, values), _known(step.kwargs, values)
            if step.op == "batch":
                values[number] = features.shape[0] * step.target
            elif step.op == "call_method":
                values[number] = getattr(args[0], step.target)(*args[1:], **kwargs)
            elif step.op == "call_function":
                values[number] = step.target(*args, **kwargs)
            else:
                own = functools.reduce(getattr, step.target.split("."), self)
                values[number] = own(*args, **kwargs) if step.op == "call_module" else own
            del args, kwargs
            for done in step.done:
                del values[done]
        result: Tensor = values[self.__returned]
        return result


def _known(argument: Any, values: dict[int, Any]) -> Any:
    """Return an argument with results in place of what stands for them."""
    if isinstance(argument, _Value):
        return values[argument.number]
    if type(argument) in (tuple, list):
        return type(argument)(_known(each, values) for each in argument)
    if type(argument) is dict:
        return {key: _known(each, values) for key, each in argument.items()}
    if isinstance(argument, slice):
        bounds = (argument.start, argument.stop, argument.step)
        return slice(*(_known(each, values) for each in bounds))
    return argument


def _install(piece: nn.Module, model: nn.Module, path: str) -> None:
    """Put a module, weight or buffer of the model where it is there, into empty modules."""
    *outer, name = path.split(".")
    for part in outer:
        model = getattr(model, part)
        if not hasattr(piece, part):
            setattr(piece, part, nn.Module())
        piece = getattr(piece, part)
        if piece is model:
            return  # within one that is there already
        piece.training = model.training
    if name in dict(model.named_buffers(recurse=False)):
        kept = name in model.state_dict()
        piece.register_buffer(name, getattr(model, name), persistent=kept)
    elif name != "training":
        setattr(piece, name, getattr(model, name))


class CutModel(nn.Module):
    """A model as ``layers``, an `nn.ModuleList`, followed by ``head``.

    Attributes:
        layers: The L layers; each maps one tensor, (B, ...), to one.
        head: Maps the output of the last layer to logits, (B, classes).
        layer_names: The module with which each layer ends.
        shapes: Shape of each layer's output without the batch: of maps (C, H, W) or (H, W, C), of
            tokens (N, C).
        shares: Each layer's share of the model's MACs; the rest is the head's.

    Examples:
        >>> import torch, torchvision
        >>> from sedona_nni.models.cutting.cut_model import cut_model
        >>> model = torchvision.models.resnet18().eval()
        >>> images = torch.rand(2, 3, 64, 64)
        >>> cut = cut_model(model, images, 4)
        >>> cut.layer_names, cut.shapes[0]
        (['layer1.1', 'layer2.1', 'layer3.1', 'layer4.1'], (64, 16, 16))
        >>> cut.layers[3].layer4[1] is model.layer4[1], torch.equal(cut(images), model(images))
        (True, True)
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[Piece], head: Piece, places: Sequence[Place]
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.head = head
        self.layer_names = [place.name for place in places]
        self.shapes = [place.shape for place in places]
        below = [0.0, *(place.share for place in places)]
        self.shares = [share - before for before, share in itertools.pairwise(below)]
        self.__model = (model,)  # in a tuple it is no submodule
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Map images, (B, C, H, W), to logits, (B, classes)."""
        features = images
        for layer in self.layers:
            features = layer(features)
        logits: Tensor = self.head(features)
        return logits

    @property
    def own_names(self) -> dict[str, str]:
        """What the model calls each entry of this state dict."""
        pieces = {f"layers.{i}.": layer for i, layer in enumerate(self.layers)}
        return {
            prefix + name: name
            for prefix, piece in (*pieces.items(), ("head.", self.head))
            for name in piece.state_dict()
        }

    def plain_state_dict(self) -> dict[str, Tensor]:
        """Return the state dict of the model that was cut, which loads it strictly."""
        state = self.state_dict()
        mine = {own: state[name] for name, own in self.own_names.items()}
        return {name: mine.get(name, kept) for name, kept in self.__model[0].state_dict().items()}


def cut_model(model: nn.Module, example: Tensor, boundaries: Boundaries = "units") -> CutModel:
    """Cut a model; its modules and weights are used, not copied.

    Args:
        model: Maps one tensor, (B, ...), to logits, (B, classes).
        example: A batch of images as it takes them; only shape and type matter.
        boundaries: Where layers end, see `sedona_nni.models.cutting.cut_points.choose_places`.

    Raises:
        InputError: if the model does not take the example, returns no logits or cannot be
            followed, or if it cannot be cut there.
    """
    traced = trace(model, example)
    places = choose_places(find_places(traced), boundaries)
    graph, new, origin = _with_whole_modules(traced, [place.index for place in places])
    free = free_nodes(graph)
    (output,) = graph.find_nodes(op="output")
    (given,) = graph.find_nodes(op="placeholder")
    crossing = [given, *(new[place.node] for place in places), output.args[0]]
    ends = [place.index for place in places]
    runs: list[list[fx.Node]] = [[] for _ in range(len(places) + 1)]
    for node in graph.nodes:
        if node not in free and node.op not in ("placeholder", "output"):
            run = runs[bisect.bisect_left(ends, origin[node])]
            run += [each for each in made_for(node, free) if each not in run] + [node]
    pieces = [
        Piece(model, *_steps(run, below, above, traced.batch))
        for run, below, above in zip(runs, crossing[:-1], crossing[1:], strict=True)
    ]
    return CutModel(model, pieces[:-1], pieces[-1], places)


def _with_whole_modules(
    traced: Trace, cuts: Sequence[int]
) -> tuple[fx.Graph, dict[fx.Node, fx.Node], dict[fx.Node, int]]:
    """Return the graph in which each module that no cut goes through is one call.

    Returns:
        The graph, its node for each of the old ones that are left, and of each of its nodes the
        index of the last old one that it stands for.
    """
    nodes = list(traced.graph.nodes)
    index = {node: number for number, node in enumerate(nodes)}
    calls = {call.start: call for call in traced.calls if _can_be_whole(call, cuts, nodes, index)}
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


def _steps(
    run: Sequence[fx.Node], given: fx.Node, returned: fx.Node, batch: int
) -> tuple[list[_Step], int]:
    """Return what a piece does, and the number of its result."""
    numbers = {given: 0, **{node: number for number, node in enumerate(run, start=1)}}
    last = dict(enumerate(range(len(run) + 1)))  # what nobody uses goes at once
    for node in run:
        for each in () if reads_batch(node) else node.all_input_nodes:
            last[numbers[each]] = numbers[node]
    del last[numbers[returned]]

    def plain(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return _Value(numbers[argument])
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
        if reads_batch(node):
            steps.append(_Step("batch", node.meta["value"] // batch, (), {}, done))
        else:
            steps.append(_Step(node.op, node.target, plain(node.args), plain(node.kwargs), done))
    return steps, numbers[returned]
