"""Computing without values: networks and their steps as shapes alone, to see what they need.

A dry run takes no memory and little time, whatever the size of the network. It is on torch's
``meta`` device, of which two things are put right here: it forgets the layout of convolutions, and
it knows no mixed precision.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sedona_nni.models import FeatureShape
from sedona_nni.models.placement import lay_out

__all__ = [
    "HALF",
    "LiveMemory",
    "MacCounter",
    "as_amp",
    "dry_features",
    "dry_run",
    "skeleton",
    "storages_saved_by",
]

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""The types of mixed precision."""

_IN_16_BITS = {
    F.conv2d,
    F.linear,
    torch.addmm,
    torch.baddbmm,
    torch.bmm,
    torch.matmul,
    torch.mm,
    Tensor.__matmul__,
    Tensor.bmm,
    Tensor.matmul,
    Tensor.mm,
}

Module = TypeVar("Module", bound=nn.Module)


class _Layouts(TorchDispatchMode):
    """Lays out what convolutions return as they do on real devices, if their weights are so."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in (
            torch.ops.aten.convolution,
            torch.ops.aten.convolution_backward,
        ):
            laid_out = [lay_out(x) if x is not None and x.dim() == 4 else x for x in _each(out)]
            return laid_out if isinstance(out, tuple) else laid_out[0]
        return out


def _each(out: Any) -> Sequence[Any]:
    """Return what an operator returns as a sequence, also where it is one thing."""
    return out if isinstance(out, tuple | list) else [out]


def dry_run() -> contextlib.AbstractContextManager[object]:
    """Return the context in which a dry run computes, in the layout of trainings."""
    return _Layouts()


class _MixedPrecision(TorchFunctionMode):
    """Casts what autocast casts to 16 bits, and each weight once."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self._cast: dict[int, Tensor] = {}

    def _in_16_bits(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        if not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(self._dtype)
        if id(tensor) not in self._cast:
            self._cast[id(tensor)] = tensor.to(self._dtype)
        return self._cast[id(tensor)]

    def __exit__(self, *exception: Any) -> None:
        self._cast.clear()  # as autocast does: what the backward pass needs, it holds itself
        super().__exit__(*exception)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _IN_16_BITS:
            args = tuple(self._in_16_bits(x) if isinstance(x, Tensor) else x for x in args)
        return func(*args, **(kwargs or {}))


def as_amp(amp: str) -> contextlib.AbstractContextManager[object]:
    """Return the context of a dry forward pass in mixed precision.

    Convolutions and products of matrices work in 16 bits and all else in the type that it gets.

    Args:
        amp: ``no``, ``fp16`` or ``bf16``.
    """
    return contextlib.nullcontext() if amp == "no" else _MixedPrecision(HALF[amp])


def skeleton(module: Module) -> Module:
    """Return a copy of a module without values; hooks and modes of the copy stay off the original.

    Four-dimensional weights are laid out as `sedona_nni.models.placement.place` does.
    """

    def hollow(tensor: Tensor) -> Tensor:
        layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
        empty = torch.empty_like(tensor, device="meta", memory_format=layout)
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(empty, tensor.requires_grad)
        return empty

    tensors = itertools.chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(tensor): hollow(tensor) for tensor in tensors})


def dry_features(shape: FeatureShape, batch_size: int) -> Tensor:
    """Return features of a batch without values, laid out as in a training."""
    return shape.laid_out(torch.empty(shape.of_batch(batch_size), device="meta"))


def storages_saved_by(
    run: Callable[[], Tensor],
) -> tuple[Tensor, dict[int, torch.UntypedStorage]]:
    """Return what a forward pass returns, and the memory that it keeps for its backward pass.

    Args:
        run: The forward pass.

    Returns:
        Its result, and by their ``id`` the storages; views of the same memory are one.
    """
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[id(storage)] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return run(), saved


class LiveMemory(TorchDispatchMode):
    """While it is entered, follows which memory is alive: what operators return, until it is freed.

    What kernels allocate and free for themselves is not seen.

    Attributes:
        now: Bytes that are alive.
        peak: The most that there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that were there before."""
        for tensor in tensors:
            self._count(tensor.untyped_storage())

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return

        def freed(_: object) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator and count what it returns."""
        out = func(*args, **(kwargs or {}))
        self.follow(each for each in _each(out) if isinstance(each, Tensor))
        return out


class MacCounter(TorchDispatchMode):
    """Counts the MACs of a module that runs on the ``meta`` device.

    Those of convolutional and linear layers by what they are, whatever operators they use. Outside
    of these, convolutions, products with a weight, and batched products as of attention; but no
    others, as of whole batches that are compared with each other.

    Attributes:
        macs: So many up to now.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.macs = 0
        self._within = 0
        tensors = itertools.chain(module.parameters(), module.buffers())
        self._weights = {id(tensor.untyped_storage()) for tensor in tensors}
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.register_forward_pre_hook(self._enter)
                part.register_forward_hook(self._leave)

    def _enter(self, layer: nn.Module, inputs: object) -> None:
        self._within += 1

    def _leave(self, layer: nn.Module, inputs: object, output: Tensor) -> None:
        self._within -= 1
        assert isinstance(layer.weight, Tensor)
        self.macs += layer.weight[0].numel() * output.numel()  # each number applies one filter

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator and count it."""
        out = func(*args, **(kwargs or {}))
        operator = func.overloadpacket
        if not self._within and operator in flop_registry:
            given = (each for each in args if isinstance(each, Tensor))
            of_weight = any(id(each.untyped_storage()) in self._weights for each in given)
            if of_weight or operator not in (torch.ops.aten.mm, torch.ops.aten.addmm):
                flops = flop_registry[operator](*args, **(kwargs or {}), out_val=out)
                self.macs += flops // 2
        return out
