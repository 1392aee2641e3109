"""Following a model's forward pass with torch.fx, by symbols that know the shapes of their values.

What is a number, what stays a symbol and what is kept whole is said in `tracing`.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from sedona_nni.models.cutting.values import (
    Values,
    generator_states,
    leaves,
    set_generators,
)

__all__ = ["BRANCHES", "SETS", "Call", "Trace", "Tracer", "count_weights", "reads_input", "reason"]

BRANCHES = "does other things in training than in evaluation"
"""Why a module is kept whole that does."""

SETS = "it sets its own {}, which would be lost"
"""Why a module is kept whole that keeps something of its own from one call to the next."""

_GROWING = {"size", "numel", "nelement"}
_SIZES = {*_GROWING, "dim", "ndimension", "is_floating_point", "is_complex"}


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
    whether it draws numbers; ``changes``, the memory (`id` of storages) that it writes into;
    ``keeps``, the buffers (`id`) that hold something else afterwards; and ``scope``, the path of
    the module whose own code it is.

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

    @property
    def num_classes(self) -> int:
        """How many logits there are for each image."""
        (output,) = self.graph.find_nodes(op="output")
        logits = output.args[0]
        assert isinstance(logits, fx.Node)
        return int(logits.meta["value"].shape[1])


def reads_input(node: fx.Node) -> bool:
    """Return whether a node reads what the input of any layer has as well, of whatever tensor.

    That is a size that grows with the batch (others became numbers), or the device.
    """
    if node.op == "call_method":
        return node.target in _GROWING
    return node.target is getattr and bool(node.args[1] == "device")


def count_weights(module: nn.Module) -> int:
    """Return how many weights a module has that are not vectors."""
    return sum(weight.dim() > 1 for weight in module.parameters())


class _Untraceable(Exception):
    """A value would have to be known that is not."""


class _Made(TorchFunctionMode):
    """Makes symbols of what torch makes of no symbol.

    That is of new tensors, as of ``arange`` or ``rand``; and of a weight's device and type, which
    are those of the copy, and the graph serves models of others.
    """

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._tracer.values.computing:
            return out
        if isinstance(out, Tensor):
            return self._tracer.create_proxy("call_function", func, args, kwargs or {})
        if isinstance(out, torch.device | torch.dtype) and self._tracer.has(args[0]):
            name = func.__self__.__name__  # of the property that is read
            return self._tracer.create_proxy("call_function", getattr, (args[0], name), {})
        return out


class _Proxy(fx.Proxy):
    """A symbol that knows the shape of its value."""

    node: fx.Node
    tracer: Tracer

    def __getattr__(self, name: str) -> Any:
        value = self.tracer.values.of(self.node)
        if name in ("shape", "ndim") and isinstance(value, Tensor):
            return self.size() if name == "shape" else self.dim()
        if callable(getattr(type(value), name, None)):
            return super().__getattr__(name)  # a method, which is called next
        if not hasattr(type(value), name) and not hasattr(value, name):
            raise AttributeError(name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __len__(self) -> int:
        value = self.tracer.values.of(self.node)
        length = len(value)
        if isinstance(value, Tensor) and self.tracer.values.grows(length):
            raise _Untraceable("the batch size as a number")
        return length

    def __iter__(self) -> Iterator[Any]:
        return (operator.getitem(self, index) for index in range(len(self)))


class Tracer(fx.Tracer):
    """Follows a model's copy with an example without memory, in one of its two modes."""

    def __init__(self, model: nn.Module, values: Values, whole: dict[str, str]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.whole = whole
        self.forks: set[str] = set()  # modules that branched on whether they train
        self.counted: dict[str, str] = {}  # modules that changed a number of theirs, and its name
        self.values = values
        self._scopes = [""]
        self._names = {
            id(tensor): name
            for named in (model.named_parameters, model.named_buffers)
            for name, tensor in named(remove_duplicate=False)
        }

    def follow(self, model: nn.Module) -> Trace:
        """Return what the model computes."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _Made(self):
            graph = self.trace(model.train(self.values.training))
        return Trace(graph, self.calls, self.whole, model, self.values.batch)

    def has(self, tensor: Tensor) -> bool:
        """Return whether a tensor is the model's own."""
        return id(tensor) in self._names or tensor in self.tensor_attrs

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
        value = self.values.of(proxy.node)
        if kind == "call_method" and target in _SIZES and not self.values.grows(value):
            self.graph.erase_node(proxy.node)
            if isinstance(value, tuple):
                return tuple(args[0].size(index) for index in range(len(value)))
            return value
        return proxy

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and id(a) in self._names:
            return self.create_node("get_attr", self._names[id(a)], (), {})
        if isinstance(a, Tensor) and not self.has(a):
            raise _Untraceable("a tensor that no module has as its own")
        return super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        """Return a weight as a symbol; one for each use, so that each lies where it is used."""
        if self.values.computing or id(attr_val) not in self._names:
            return attr_val
        return self.create_proxy("get_attr", self._names[id(attr_val)], (), {})

    def to_bool(self, obj: fx.Proxy) -> bool:
        node = obj.node
        if node.op == "get_attr" and str(node.target).rpartition(".")[2] == "training":
            path = self._scopes[-1]
            if path and count_weights(self.root.get_submodule(path)) < 2:
                raise _Untraceable(BRANCHES)  # no place to cut; not worth another way
            self.forks.add(path)
            return self.values.training
        raise _Untraceable(f"a branch on a value, {node.name}")

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if self.values.computing:
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
                self.whole[path] = reason(error)
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
        value = self.values.of(proxy.node)
        if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
            kind = list if isinstance(value, list) else tuple
            return kind(self._opened(each) for each in proxy)
        if value is None or (type(value) in (bool, int) and not self.values.grows(value)):
            self.graph.erase_node(proxy.node)
            return value
        return proxy

    @contextlib.contextmanager
    def _inside(self, path: str, module: nn.Module) -> Iterator[None]:
        """Be in a module's own code, in which its ``training`` is a symbol.

        What Python does besides is not in the graph: nothing may be left of it.
        """
        training, generators = module.training, generator_states()
        numbers, buffers = _numbers_of(module), dict(module.named_buffers(recurse=False))
        self._scopes.append(path)
        target = f"{path}.training".lstrip(".")
        module.training = self.create_proxy("get_attr", target, (), {})
        try:
            yield
        finally:
            module.training = training
            self._scopes.pop()
            drew = set_generators(generators)
            found = _numbers_of(module)
            for name, value in numbers.items():
                if name in found and found[name] is not value and found[name] != value:
                    self.counted[path] = name
            lost = []
            for name, buffer in buffers.items():
                now: Any = dict(module.named_buffers(recurse=False)).get(name)
                if now is not buffer:
                    setattr(module, name, buffer)
                    if not isinstance(now, _Proxy) or self.values.of(now.node) is not buffer:
                        lost.append(name)
        if drew:
            raise _Untraceable("it draws from Python's or NumPy's generator")
        if lost:
            raise _Untraceable(SETS.format(lost[0]))


def _numbers_of(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, int | float) and name != "training"
    }


def _nodes_in(structure: Any) -> list[fx.Node]:
    return [each for each in leaves(structure) if isinstance(each, fx.Node)]


def reason(error: Exception) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {error}".partition("\n")[0].removeprefix("_Untraceable: ")
