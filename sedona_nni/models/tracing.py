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

import contextlib
import copy
import itertools
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sedona_nni.errors import InputError

__all__ = ["Call", "Trace", "count_weights", "is_multiple", "trace"]

_PRIMES = (1009, 1013, 1019, 1021, 1031)
_SIZES = {"size", "dim", "ndimension", "numel", "nelement", "is_floating_point", "is_complex"}

_BRANCHES = "does other things in training than in evaluation"


@dataclass
class Call:
    """A call of a module, which made the nodes from ``start`` to before ``stop``.

    Attributes:
        path: Its name in the model.
        start: Index of its first node.
        stop: Index after its last.
        args: What it was given, nodes in place of values.
        kwargs: What it was given by name.
        output: What it returned: a node, or a tuple or list of them.
    """

    path: str
    start: int
    stop: int
    args: Any
    kwargs: Any
    output: Any

    @property
    def result(self) -> fx.Node | None:
        """The one node in what it returned; None if there are more."""
        nodes = _nodes_in(self.output)
        return nodes[0] if len(nodes) == 1 else None


@dataclass
class Trace:
    """What a model computes.

    Each node's ``meta`` has ``value``, its value without memory; ``macs`` of the batch; ``random``,
    whether it draws numbers; ``changes``, the memory (`id` of storages) that it writes into; and
    ``scope``, the path of the module whose own code it is.

    Attributes:
        graph: The nodes, in the order in which the model computes.
        calls: Of modules, also of those that are one node; outer before inner ones.
        whole: Modules that were kept whole though they are not torch's, and why.
        model: The copy without memory.
        batch: Its batch size, a prime.
    """

    graph: fx.Graph
    calls: list[Call]
    whole: dict[str, str]
    model: nn.Module
    batch: int


def is_multiple(value: object, batch: int) -> bool:
    """Return whether a value is a size that grows with the batch."""
    return type(value) is int and value != 0 and value % batch == 0


def count_weights(module: nn.Module) -> int:
    """Return how many weights a module has that are not vectors."""
    return sum(weight.dim() > 1 for weight in module.parameters())


class _Untraceable(Exception):
    """A value would have to be known that is not."""


class _Watch(TorchDispatchMode):
    """Counts what torch's operators compute, and sees whether they draw random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.random = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        self.random |= torch.Tag.nondeterministic_seeded in func.tags
        return out


class _Made(TorchFunctionMode):
    """Makes nodes of the tensors that torch makes of no symbol, as ``arange`` or ``rand`` do."""

    def __init__(self, tracer: _Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and not self._tracer.computing:
            return self._tracer.create_proxy("call_function", func, args, kwargs or {})
        return out


class _Proxy(fx.Proxy):
    """A symbol that knows the shape of its value."""

    node: fx.Node
    tracer: _Tracer

    def __getattr__(self, name: str) -> Any:
        value = self.tracer.value(self.node)
        if name in ("shape", "ndim") and isinstance(value, Tensor):
            return self.size() if name == "shape" else self.dim()
        if callable(getattr(type(value), name, None)):
            return super().__getattr__(name)  # a method, which is called next
        if not hasattr(value, name):
            raise AttributeError(name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __len__(self) -> int:
        value = self.tracer.value(self.node)
        length = len(value)
        if isinstance(value, Tensor) and is_multiple(length, self.tracer.batch):
            raise _Untraceable("the batch size as a number")
        return length

    def __iter__(self) -> Iterator[Any]:
        return (operator.getitem(self, index) for index in range(len(self)))


class _Tracer(fx.Tracer):
    """Follows a model's copy with an example without memory, in one of its two modes."""

    def __init__(
        self,
        model: nn.Module,
        original: nn.Module,
        example: Tensor,
        training: bool,
        whole: dict[str, str],
    ) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.whole = whole
        self.forks: set[str] = set()  # modules that branched on whether they train
        self.batch = example.shape[0]
        self.computing = False
        self._original = original
        self._example = example
        self._training = training
        self._scopes = [""]
        self._names = {
            id(tensor): name
            for named in (model.named_parameters, model.named_buffers)
            for name, tensor in named(remove_duplicate=False)
        }

    def follow(self, model: nn.Module) -> Trace:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _Made(self):
            graph = self.trace(model.train(self._training))
        return Trace(graph, self.calls, self.whole, model, self.batch)

    # What torch.fx asks for

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """Return the forward pass and its one argument, all others at their defaults."""

        def forward(model: nn.Module, images: Any) -> Any:
            with self._inside("", model):
                return root_fn(model, images)

        return forward, [self.root, self.create_proxy("placeholder", "images", (), {})]

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta = {"scope": self._scopes[-1], "index": len(self.graph.nodes) - 1}
        return node

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any
    ) -> Any:
        """Return a symbol, or the number if it is a size that does not grow with the batch."""
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        value = self.value(proxy.node)
        if kind == "call_method" and target in _SIZES and not is_multiple(value, self.batch):
            self.graph.erase_node(proxy.node)
            if isinstance(value, tuple):
                return tuple(args[0].size(index) for index in range(len(value)))
            return value
        return proxy

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and id(a) in self._names:
            return self.create_node("get_attr", self._names[id(a)], (), {})
        if isinstance(a, Tensor) and a not in self.tensor_attrs:
            raise _Untraceable("a tensor that no module has as its own")
        return super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        """Return a weight as a symbol; one for each use, so that each lies where it is used."""
        if self.computing or id(attr_val) not in self._names:
            return attr_val
        return self.create_proxy("get_attr", self._names[id(attr_val)], (), {})

    def to_bool(self, obj: fx.Proxy) -> bool:
        node = obj.node
        if node.op == "get_attr" and str(node.target).rpartition(".")[2] == "training":
            path = self._scopes[-1]
            if path and count_weights(self.root.get_submodule(path)) < 2:
                raise _Untraceable(_BRANCHES)  # no place to cut; not worth another way
            self.forks.add(path)
            return self._training
        raise _Untraceable(f"a branch on a value, {node.name}")

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if self.computing:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        call = Call(path, 0, 0, self.create_arg(args), self.create_arg(kwargs), None)
        call.start = start = len(self.graph.nodes)
        number = len(self.calls)
        self.calls.append(call)
        if path not in self.whole and not self.is_leaf_module(m, path):
            try:
                with self._inside(path, m):
                    out = forward(*args, **kwargs)
                call.output, call.stop = self.create_arg(out), len(self.graph.nodes)
            except Exception as error:
                self.whole[path] = _reason(error)
            else:
                # Had it handed on what it was given, its callers' nodes could not be told from its
                if all(node.meta["index"] >= start for node in _nodes_in(call.output)):
                    return out
            while len(self.graph.nodes) > start:
                self.graph.erase_node(next(iter(reversed(self.graph.nodes))))
            del self.calls[number + 1 :]
        proxy = self.create_proxy("call_module", path, args, kwargs)
        call.start = proxy.node.meta["index"]
        call.output, call.stop = proxy.node, call.start + 1
        return self._opened(proxy)

    def _opened(self, proxy: Any) -> Any:
        """Return what a module that is kept whole returned: its tuples as such, numbers as such."""
        value = self.value(proxy.node)
        if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
            kind = list if isinstance(value, list) else tuple
            return kind(self._opened(each) for each in proxy)
        if value is None or (type(value) in (bool, int) and not is_multiple(value, self.batch)):
            self.graph.erase_node(proxy.node)
            return value
        return proxy

    @contextlib.contextmanager
    def _inside(self, path: str, module: nn.Module) -> Iterator[None]:
        """Be in a module's own code, in which its ``training`` is a symbol."""
        training = module.training
        self._scopes.append(path)
        target = f"{path}.training".lstrip(".")
        module.training = self.create_proxy("get_attr", target, (), {})
        try:
            yield
        finally:
            module.training = training
            self._scopes.pop()

    # Values

    def value(self, node: fx.Node) -> Any:
        """Return a node's value without memory."""
        if "value" not in node.meta:
            node.meta.update(self._computed(node))
        return node.meta["value"]

    def _computed(self, node: fx.Node) -> dict[str, Any]:
        args, kwargs = map_arg((node.args, node.kwargs), self.value)
        given = [each for each in _leaves((args, kwargs)) if isinstance(each, Tensor)]
        self.computing = True
        try:
            before = [tensor._version for tensor in given]
            try:
                with _Watch() as watch:
                    value = self._run(node, args, kwargs)
            except Exception:
                if node.op != "call_module":
                    raise
                value, watch = self._run_for_real(str(node.target), args, kwargs)
            changed = [x for x, version in zip(given, before, strict=True) if x._version != version]
            return {
                "value": map_aggregate(
                    value, lambda x: x.to("meta") if isinstance(x, Tensor) else x
                ),
                "macs": watch.flops // 2,
                "random": watch.random,
                "changes": {id(tensor.untyped_storage()) for tensor in changed},
            }
        finally:
            self.computing = False

    def _run(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "placeholder":
            return self._example
        target: Any = node.target
        if node.op == "get_attr":
            owner, _, name = target.rpartition(".")
            if name == "training":
                return self._training
            return getattr(self.root.get_submodule(owner), name)
        if node.op == "call_module":
            return self.root.get_submodule(target)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)

    def _run_for_real(self, path: str, args: Any, kwargs: Any) -> tuple[Any, _Watch]:
        """Return what a module returns whose code needs values, found with two small batches."""
        module = copy.deepcopy(self._original.get_submodule(path)).cpu().train(self._training)

        def run(batch: int) -> Any:
            def real(given: Any) -> Any:
                if not isinstance(given, Tensor):
                    return given
                shape = [
                    batch * s // self.batch if is_multiple(s, self.batch) else s
                    for s in given.shape
                ]
                return torch.ones(shape, dtype=given.dtype)

            return module(*map_aggregate(args, real), **map_aggregate(kwargs, real))

        def without_memory(of_two: Any) -> Any:
            of_three = next(others)
            if not isinstance(of_two, Tensor):
                return of_two
            shape = [
                a if a == b else a // 2 * self.batch
                for a, b in zip(of_two.shape, of_three.shape, strict=True)
            ]
            return torch.empty(shape, dtype=of_two.dtype, device="meta")

        with _Watch() as watch:
            two = run(2)
        watch.flops = watch.flops // 2 * self.batch
        others = iter(_leaves(run(3)))
        return map_aggregate(two, without_memory), watch


def _nodes_in(structure: Any) -> list[fx.Node]:
    return [each for each in _leaves(structure) if isinstance(each, fx.Node)]


def _leaves(structure: Any) -> list[Any]:
    leaves: list[Any] = []
    map_aggregate(structure, leaves.append)
    return leaves


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0].removeprefix("_Untraceable: ")


def trace(model: nn.Module, example: Tensor) -> Trace:
    """Follow a model through its forward pass.

    Args:
        model: Any module of one tensor, (B, ...), that returns logits, (B, classes).
        example: A batch as the model takes it; neither its values nor its batch size matter.

    Raises:
        InputError: if the model does not take the example, does not return logits, or cannot be
            followed in its outermost code.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from sedona_nni.models.tracing import trace
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
        >>> images = torch.zeros(2, 3, 8, 8)
        >>> _ = model(images)
        >>> [call.path for call in trace(model, images).calls]
        ['0', '1', '2', '3']
    """
    copied = _without_memory(model)
    tensors = itertools.chain(model.parameters(), model.buffers(), [example[0]])
    sizes = {size for tensor in tensors for size in tensor.shape}
    batch = next(prime for prime in _PRIMES if not any(is_multiple(s, prime) for s in sizes))
    images = torch.empty(batch, *example.shape[1:], dtype=example.dtype, device="meta")
    whole: dict[str, str] = {}
    while True:
        ways = []
        for training in (True, False):
            tracer = _Tracer(copied, model, images, training, whole)
            try:
                ways.append(tracer.follow(copied))
            except Exception as error:
                raise _not_followed(tracer, model, example, error) from error
            if not tracer.forks:
                break
        if len(ways) == 1 or _steps(ways[0]) == _steps(ways[1]):
            _check_logits(ways[0])
            return ways[0]
        differing = _differing(ways[0], ways[1], tracer.forks - {""})
        if not differing:
            rule = "must compute the same in training and in evaluation, but for its modules"
            raise InputError.rule("model", rule, type(model).__name__)
        whole |= dict.fromkeys(differing, _BRANCHES)


def _without_memory(model: nn.Module) -> nn.Module:
    tensors = itertools.chain(
        model.parameters(),
        model.buffers(),
        (each for module in model.modules() for each in vars(module).values()),
    )
    hollow = {
        id(each): each.detach().to("meta").requires_grad_(each.requires_grad)
        for each in tensors
        if isinstance(each, Tensor)
    }
    for name, parameter in model.named_parameters():
        del name
        hollow[id(parameter)] = nn.Parameter(hollow[id(parameter)], parameter.requires_grad)
    return copy.deepcopy(model, hollow)


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
                did[call.path].append([f"{node.op} {node.target}" for node in run])
        return did

    one, other = own(first), own(second)
    differing = {path for path in forks if one[path] != other[path]}
    return {
        path for path in differing if not any(each.startswith(f"{path}.") for each in differing)
    }


def _check_logits(way: Trace) -> None:
    (output,) = way.graph.find_nodes(op="output")
    logits = output.args[0]
    value = logits.meta["value"] if isinstance(logits, fx.Node) else logits
    if not isinstance(value, Tensor) or value.dim() != 2 or value.shape[0] != way.batch:
        rule = "must return logits, (B, classes)"
        shape = tuple(value.shape[1:]) if isinstance(value, Tensor) else type(value).__name__
        raise InputError.rule("model", rule, shape)


def _not_followed(
    tracer: _Tracer, model: nn.Module, example: Tensor, error: Exception
) -> InputError:
    name = type(model).__name__
    try:
        with torch.no_grad():
            copy.deepcopy(model).eval()(example)
    except Exception as refused:
        rule = f"must be images that {name} takes"
        return InputError.rule("example", rule, f"{tuple(example.shape)}: {_reason(refused)}")
    nodes = [node for node in tracer.graph.nodes if node.op.startswith("call")]
    until = "its input" if not nodes else f"{nodes[-1].meta['scope']} {nodes[-1].name}".strip()
    rule = f"must be one that torch.fx can follow, and was followed to {until}"
    return InputError.rule("model", rule, f"{name}: {_reason(error)}")
