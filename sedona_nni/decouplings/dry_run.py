"""Computing without values: networks and their steps as shapes alone, to see what they need.

A dry run takes no memory and little time, whatever the size of the network. It is on torch's
``meta`` device, of which three things are put right here: it forgets the layout of convolutions, it
makes the matrices of attention, which fused kernels do without, and it knows no mixed precision.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sedona_nni.models import FeatureShape
from sedona_nni.models.placement import lay_out

__all__ = [
    "HALF",
    "ComputedAgain",
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

_scaled_dot_product_attention = F.scaled_dot_product_attention  # whatever stands there later

_IN_16_BITS = {
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose2d,
    F.linear,
    F.scaled_dot_product_attention,
    torch.addmm,
    torch.baddbmm,
    torch.bmm,
    torch.einsum,
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


class _Functions(TorchFunctionMode):
    """Sees all functions of torch, also those that are called within its attention layers."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.multi_head_attention_forward:
            return self._run(func, args, kwargs)
        # A function in Python, within which torch asks no mode any more: it has to be entered again
        within = {name: getattr(F, name) for name in ("linear", "scaled_dot_product_attention")}
        try:
            for name, function in within.items():
                setattr(F, name, self._again(function))
            return func(*args, **kwargs)
        finally:
            for name, function in within.items():
                setattr(F, name, function)

    def _again(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*args: Any, **kwargs: Any) -> Tensor:
            with self:
                return function(*args, **kwargs)

        return run

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)


class _Attention(_Functions):
    """Computes attention by the fused kernel where torch would on the CPU.

    On a GPU it does so in more cases; what is saved is of the same size.
    """

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is _scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return what `torch.nn.functional.scaled_dot_product_attention` returns."""

    def stand_in(tensor: Tensor) -> Tensor:
        row = torch.empty(tensor.shape[-1], dtype=tensor.dtype, device="cpu")
        return row.expand(tensor.shape).requires_grad_(tensor.requires_grad)

    mask = attn_mask
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.empty_like(mask, dtype=query.dtype)
    kernel = torch._fused_sdp_choice(
        stand_in(query),
        stand_in(key),
        stand_in(value),
        None if mask is None else stand_in(mask),
        dropout_p,
        is_causal,
        scale=scale,
        enable_gqa=enable_gqa,
    )
    if kernel != SDPBackend.FLASH_ATTENTION.value or enable_gqa:
        return _scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    out: Tensor
    out, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=mask, scale=scale
    )
    return out


@contextlib.contextmanager
def dry_run() -> Iterator[None]:
    """Return the context in which a dry run computes, in the layout of trainings."""
    with _Attention(), _Layouts():
        yield


class _MixedPrecision(_Functions):
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

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in _IN_16_BITS:
            args = tuple(self._in_16_bits(x) if isinstance(x, Tensor) else x for x in args)
            kwargs = {
                name: self._in_16_bits(x) if isinstance(x, Tensor) else x
                for name, x in kwargs.items()
            }
        return func(*args, **kwargs)


def as_amp(amp: str) -> contextlib.AbstractContextManager[object]:
    """Return the context of a dry forward pass in mixed precision.

    Convolutions and products of matrices work in 16 bits and all else in the type that it gets.

    Args:
        amp: ``no``, ``fp16`` or ``bf16``.
    """
    return contextlib.nullcontext() if amp == "no" else _MixedPrecision(HALF[amp])


class ComputedAgain(nn.Module):
    """A layer that a backward pass computes again, which a dry run sees only from here."""

    def __init__(self, layer: nn.Module, amp: str) -> None:
        super().__init__()
        self.layer = layer
        self.amp = amp

    def forward(self, features: Tensor) -> Tensor:
        """Map what the layer maps."""
        with _Attention(), as_amp(self.amp):
            out: Tensor = self.layer(features)
            return out


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

    What kernels allocate and free for themselves is not seen, but for one thing.

    Args:
        on_cpu: Whether to count that the gradient of a convolution's weight is there three times
            while it is made, as oneDNN lays it out in other ways.

    Attributes:
        now: Bytes that are alive.
        peak: The most that there were.
    """

    def __init__(self, *, on_cpu: bool = False) -> None:
        super().__init__()
        self._on_cpu = on_cpu
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
        if self._on_cpu and func.overloadpacket is torch.ops.aten.convolution_backward:
            of_weight = out[1]
            if of_weight is not None:
                self.peak = max(self.peak, self.now + 2 * of_weight.untyped_storage().nbytes())
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
        from torch.utils.flop_counter import flop_registry  # which imports Triton

        super().__init__()
        self.macs = 0
        self._within = 0
        self._flops = flop_registry
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
        if not self._within and operator in self._flops:
            given = (each for each in args if isinstance(each, Tensor))
            of_weight = any(id(each.untyped_storage()) in self._weights for each in given)
            if of_weight or operator not in (torch.ops.aten.mm, torch.ops.aten.addmm):
                flops = self._flops[operator](*args, **(kwargs or {}), out_val=out)
                self.macs += flops // 2
        return out
