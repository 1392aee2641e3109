"""A model's forward pass as a graph whose values have shapes.

The model is followed by torch.fx on a copy without memory (torch's ``meta`` device), so nothing of
the original changes and its size does not matter. Beside its symbol each value carries a shape:

    sizes          are numbers, and so are branches on them; but what is a multiple of the batch
                   size stays a symbol, so that the graph serves every batch. The copy computes
                   with a batch that is a prime, and what it divides is such a multiple.
    ``training``   of a module is a symbol that is read when the graph runs. Who branches on it is
                   followed both ways.
    weights,       and whatever torch makes of nothing, random numbers too, are made when the graph
    constants      runs; no value is frozen.

A module is *kept whole*, as one call in the graph, if it is one of torch.nn's, if it branches on
values, or if it does other things in training than in evaluation. So what cannot be followed is
still computed by the model's own code.
Source: Reed et al., MLSys 2022 (torch.fx).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from sedona_nni.errors import InputError
from sedona_nni.models.cutting.following import BRANCHES, SETS, Trace, Tracer, reason
from sedona_nni.models.cutting.values import (
    Values,
    copy_with,
    generator_states,
    set_generators,
)

__all__ = ["trace", "without_memory"]

_PRIMES = (1009, 1013, 1019, 1021, 1031)


def trace(model: nn.Module, example: Tensor) -> Trace:
    """Follow a model through its forward pass.

    Args:
        model: Any module of one tensor, (B, ...), that returns logits, (B, classes). Its hooks run,
            on values without memory.
        example: A batch as the model takes it; neither its values nor its batch size matter.

    Raises:
        InputError: if the model is compiled, wrapped for several devices, or without weights yet,
            if it does not take the example, does not return logits, or cannot be followed in its
            outermost code.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from sedona_nni.models.cutting.tracing import trace
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
        >>> images = torch.zeros(2, 3, 8, 8)
        >>> _ = model(images)
        >>> [call.path for call in trace(model, images).calls]
        ['0', '1', '2', '3']
    """
    _check_plain(model)
    copied = without_memory(model)
    tensors = itertools.chain(model.parameters(), model.buffers(), [example[0]])
    sizes = {size for tensor in tensors for size in tensor.shape}
    batch = next(
        prime for prime in _PRIMES if not any(size and size % prime == 0 for size in sizes)
    )
    images = torch.empty(batch, *example.shape[1:], dtype=example.dtype, device="meta")
    whole: dict[str, str] = {}
    while True:
        ways: list[Trace] = []
        forks: set[str] = set()
        counters: dict[str, str] = {}
        for training in (True, False):
            tracer, way = _followed(copied, model, example, images, training, whole)
            ways.append(way)
            if tracer.counted:  # a note of what it was given is the same again, a counter goes on
                again, _ = _followed(copied, model, example, images, training, whole)
                counters |= again.counted
            forks |= tracer.forks
            if not forks:
                break
        if counters:
            if "" in counters:
                rule = "must be one that torch.fx can follow"
                what = f"{type(model).__name__}: {SETS.format(counters[''])}"
                raise InputError.rule("model", rule, what)
            whole |= {path: SETS.format(name) for path, name in counters.items()}
            continue
        if len(ways) == 1 or _steps(ways[0]) == _steps(ways[1]):
            _check_logits(ways[0])
            return ways[0]
        differing = _differing(ways[0], ways[1], forks - {""})
        if not differing:
            raise _not_the_same(model, ways)
        whole |= dict.fromkeys(differing, BRANCHES)


def _followed(
    copied: nn.Module,
    model: nn.Module,
    example: Tensor,
    images: Tensor,
    training: bool,
    whole: dict[str, str],
) -> tuple[Tracer, Trace]:
    tracer = Tracer(copied, Values(copied, model, images, training), whole)
    try:
        return tracer, tracer.follow(copied)
    except Exception as error:
        raise _not_followed(tracer, model, example, error) from error


def _check_plain(model: nn.Module) -> None:
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise InputError.rule("model", "must be a torch.nn.Module of Python", type(model).__name__)
    for name, module in model.named_modules():
        where = f"{type(module).__name__} at {name!r}" if name else type(module).__name__
        if type(module).__name__ == "OptimizedModule":  # importing its class takes seconds
            raise InputError.rule("model", "must be cut before it is compiled", where)
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise InputError.rule("model", "must be cut before it is wrapped", where)
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(nn.parameter.is_lazy(tensor) for tensor in tensors):
            raise InputError.rule("model", "must have run once, to have its weights", where)


def without_memory(model: nn.Module) -> nn.Module:
    """Return a copy of a model on torch's ``meta`` device."""
    return copy_with(model, lambda tensor: tensor.to("meta"))


def _steps(way: Trace) -> list[str]:
    """Return the nodes as texts, equal if they compute the same."""
    return [
        repr((node.op, str(node.target), node.args, node.kwargs, node.meta["scope"]))
        for node in way.graph.nodes
    ]


def _differing(first: Trace, second: Trace, forks: set[str]) -> set[str]:
    """Return the innermost modules that do other things in the two modes."""

    def own(way: Trace) -> dict[str, list[list[str]]]:
        nodes = list(way.graph.nodes)
        did: dict[str, list[list[str]]] = {path: [] for path in forks}
        for call in way.calls:
            if call.path in forks:
                run = nodes[call.start : call.stop]
                within = {node: number for number, node in enumerate(run)}
                given = [map_arg((node.args, node.kwargs), within.get) for node in run]
                did[call.path].append(
                    [repr((x.op, str(x.target), y)) for x, y in zip(run, given, strict=True)]
                )
        return did

    one, other = own(first), own(second)
    differing = {path for path in forks if one[path] != other[path]}
    return {
        path for path in differing if not any(each.startswith(f"{path}.") for each in differing)
    }


def _returned(way: Trace) -> Any:
    (output,) = way.graph.find_nodes(op="output")
    returned = output.args[0]
    return returned.meta.get("value", returned) if isinstance(returned, fx.Node) else returned


def _check_logits(way: Trace) -> None:
    value = _returned(way)
    if not isinstance(value, Tensor) or value.dim() != 2 or value.shape[0] != way.batch:
        rule = "must return logits, (B, classes)"
        shape = tuple(value.shape[1:]) if isinstance(value, Tensor) else _kind(value)
        raise InputError.rule("model", rule, shape)


def _kind(value: Any) -> str:
    """Return the name of a value's class; a node that nobody used makes one."""
    kind: Any = value.target if isinstance(value, fx.Node) else type(value)
    return str(kind.__name__).removeprefix("immutable_")  # as torch.fx keeps dicts and lists


def _not_the_same(model: nn.Module, ways: Sequence[Trace]) -> InputError:
    """Return the error of a model whose outermost code does other things in the two modes."""
    train, evaluate = map(_returned, ways)
    if isinstance(evaluate, Tensor) and not isinstance(train, Tensor):
        rule = "must return logits alone in training, too (built with aux_logits=False, say)"
        return InputError.rule("model", rule, f"{type(model).__name__}: {_kind(train)}")
    rule = "must compute the same in training and in evaluation, but for its modules"
    return InputError.rule("model", rule, type(model).__name__)


def _not_followed(
    tracer: Tracer, model: nn.Module, example: Tensor, error: Exception
) -> InputError:
    name = type(model).__name__
    device = next((weight.device for weight in model.parameters()), example.device)
    generators = generator_states()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            copy_with(model, torch.clone).eval()(example.to(device))
    except Exception as refused:
        rule = f"must be images that {name} takes"
        return InputError.rule("example", rule, f"{tuple(example.shape)}: {reason(refused)}")
    finally:
        set_generators(generators)
    nodes = [node for node in tracer.graph.nodes if node.op.startswith("call")]
    until = "its input" if not nodes else f"{nodes[-1].meta['scope']} {nodes[-1].name}".strip()
    mode = "training" if tracer.values.training else "evaluation"
    rule = f"must be one that torch.fx can follow, and in {mode} was followed to {until}"
    return InputError.rule("model", rule, f"{name}: {reason(error)}")
