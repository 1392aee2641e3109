"""What a node computes, without memory: shapes, operations, what it draws and writes into.

The nodes of torch.fx are run on torch's ``meta`` device with a batch that is a prime number, so
that a size which the prime divides is one that grows with the batch. A module whose code needs
values runs with two small batches of ones, which tell its shapes.
"""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Values", "copy_with", "generator_states", "leaves", "set_generators"]

_NORMS = {F.batch_norm, F.instance_norm}  # which write into what they are given second and third


class _Watch(TorchDispatchMode):
    """Counts what torch's operators compute, and sees whether they draw random numbers."""

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry  # which imports Triton

        super().__init__()
        self.flops = 0
        self.random = False
        self._flops_of = flop_registry

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in self._flops_of:
            self.flops += self._flops_of[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        self.random |= torch.Tag.nondeterministic_seeded in func.tags
        return out


class Values:
    """Computes the values of a graph's nodes, each once and when it is made.

    Attributes:
        computing: Whether it is at that; then nothing is to be followed.
        training: Which of the two modes the model is in.
        batch: The batch size, a prime number.
    """

    def __init__(
        self, model: nn.Module, original: nn.Module, example: Tensor, training: bool
    ) -> None:
        self.computing = False
        self.training = training
        self.batch = example.shape[0]
        self._model = model
        self._original = original
        self._example = example

    def grows(self, value: object) -> bool:
        """Return whether a value is a size that grows with the batch."""
        return type(value) is int and value != 0 and value % self.batch == 0

    def of(self, node: fx.Node) -> Any:
        """Return a node's value, in its ``meta`` with what else `Trace` says."""
        if "value" not in node.meta:
            node.meta.update(self._computed(node))
        return node.meta["value"]

    def _computed(self, node: fx.Node) -> dict[str, Any]:
        args, kwargs = map_arg((node.args, node.kwargs), self.of)
        given = [each for each in leaves((args, kwargs)) if isinstance(each, Tensor)]
        self.computing = True
        generators = generator_states()
        try:
            before = [tensor._version for tensor in given]
            whole = node.op == "call_module"
            held = _Held(self._model.get_submodule(str(node.target)) if whole else nn.Module())
            try:
                with _Watch() as watch:
                    value = self._run(node, args, kwargs)
            except Exception:
                if not whole:
                    raise
                value, watch, kept = self._run_for_real(str(node.target), args, kwargs)
            else:
                kept = held.written()
            changed = [x for x, version in zip(given, before, strict=True) if x._version != version]
            return {
                "value": map_aggregate(
                    value, lambda x: x.to("meta") if isinstance(x, Tensor) else x
                ),
                "macs": watch.flops // 2,
                "random": watch.random,
                "changes": {id(tensor.untyped_storage()) for tensor in changed},
                "keeps": {
                    *(id(held.buffers[name]) for name in kept),
                    *map(id, changed),
                    *map(id, _statistics(node, args, kwargs)),
                },
            }
        finally:
            self.computing = False
            set_generators(generators)

    def _run(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "placeholder":
            return self._example
        target: Any = node.target
        if node.op == "get_attr":
            owner, _, name = target.rpartition(".")
            if name == "training":
                return self.training
            return getattr(self._model.get_submodule(owner), name)
        if node.op == "call_module":
            return self._model.get_submodule(target)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)

    def _run_for_real(self, path: str, args: Any, kwargs: Any) -> tuple[Any, _Watch, set[str]]:
        """Return what a module returns whose code needs values, found with two small batches, and
        the names of the buffers that it writes."""
        module = self._original.get_submodule(path)
        module = copy_with(module, _with_memory).train(self.training)

        def run(batch: int) -> Any:
            def real(given: Any) -> Any:
                if not isinstance(given, Tensor):
                    return given
                shape = [batch * s // self.batch if self.grows(s) else s for s in given.shape]
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

        held = _Held(module)
        with _Watch() as watch:
            two = run(2)
        kept = held.written()
        watch.flops = watch.flops // 2 * self.batch
        others = iter(leaves(run(3)))
        return map_aggregate(two, without_memory), watch, kept


def _statistics(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the statistics that a call of torch's functions writes without counting it."""
    if node.target not in _NORMS:
        return []
    does_by_default = node.target is F.instance_norm
    name = "use_input_stats" if does_by_default else "training"
    if not (args[5] if len(args) > 5 else kwargs.get(name, does_by_default)):
        return []
    given = [*args[1:3], kwargs.get("running_mean"), kwargs.get("running_var")]
    return [each for each in given if isinstance(each, Tensor)]


class _Held:
    """The buffers of a module, and which of them it writes."""

    def __init__(self, module: nn.Module) -> None:
        self.buffers = dict(module.named_buffers())
        self._module = module
        self._versions = {name: buffer._version for name, buffer in self.buffers.items()}

    def written(self) -> set[str]:
        """Return the names of those that are others now, of which the module gets back its own."""
        now = dict(self._module.named_buffers())
        found = set()
        for name, buffer in self.buffers.items():
            path, _, own = name.rpartition(".")
            owner = self._module.get_submodule(path)
            if now.get(name) is not buffer:
                setattr(owner, own, buffer)
                found.add(name)
            # What a norm of torch's keeps while it trains is written without being counted
            elif buffer._version != self._versions[name] or (
                owner.training and getattr(owner, "track_running_stats", False)
            ):
                found.add(name)
        return found


def _with_memory(tensor: Tensor) -> Tensor:
    return torch.ones_like(tensor, device="cpu") if tensor.is_meta else tensor.cpu().clone()


def copy_with(module: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a copy of a module with other tensors, also of those that it has put into its dicts.

    A plain copy would fail if one of these is the result of a computation, as a cache may be.
    """

    def changed(tensor: Tensor) -> Tensor:
        new = change(tensor.detach())
        return nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new

    held = (each for inner in module.modules() for each in leaves(vars(inner)))
    return copy.deepcopy(module, {id(x): changed(x) for x in held if isinstance(x, Tensor)})


def generator_states() -> bytes:
    """Return where Python's and NumPy's global generators are."""
    return pickle.dumps((random.getstate(), np.random.get_state(legacy=False)))


def set_generators(states: bytes) -> bool:
    """Bring them back to where they were, and return whether they had moved on."""
    if generator_states() == states:
        return False
    of_python, of_numpy = pickle.loads(states)
    random.setstate(of_python)
    np.random.set_state(of_numpy)
    return True


def leaves(structure: Any) -> list[Any]:
    """Return what is in a structure of tuples, lists, dicts and slices."""
    found: list[Any] = []
    map_aggregate(structure, found.append)
    return found
