"""Whether a search can differentiate through a network's training, tried out before it begins.

Notation, of a layer y = f(x, w) with random p for x and w, and a random cotangent c of y:
    g          the gradient of <c, y> with regard to x and w, from which training learns
    slope      <g, p>, which a pull-back computes with dual numbers as <c, tangent of y>
    adjoint    its gradient with regard to x and w, in reverse mode
Each layer, head and auxiliary network is run on a few random samples. Both are computed as the
search does, and a second time by torch's backward passes, one through the other. So an operator is
found that has no forward derivative, or none that can be differentiated again; but also one whose
derivative is there and wrong, a weight that a module does not read where it is registered, and
random numbers that the two draw differently.

A layer that fails is searched for the smallest module in it that fails alone, on what it was given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from sedona_nni.errors import InputError
from sedona_nni.image_size import height_and_width
from sedona_nni.models.batch_norm import BatchNorm
from sedona_nni.models.placement import lay_out
from sedona_nni.searches.sedona.dual_modules import dual_modules
from sedona_nni.searches.sedona.dual_operators import DualOperators
from sedona_nni.searches.sedona.inner_step import InnerProblem, quiet_forward_ad
from sedona_nni.searches.sedona.normalising import normalising_by, replaced_forwards

__all__ = ["check_layers"]

_SAMPLES = 4  # two are one number for a batch norm of a single pixel
_TOLERANCE = 0.05  # float32 comes to 0.014 at most; with a part missing it is 0.1 and more
_TRIES = 3  # a rounding error may change the sign of a pre-activation, but not with all numbers


def check_layers(problem: InnerProblem) -> None:
    """Check that a search can differentiate through each layer and auxiliary network.

    The network's weights, buffers and torch's random numbers are left as they were.

    Raises:
        InputError: naming the first module that cannot be, and why.
    """
    network = problem.network
    backbone, device = network.backbone, network.alpha.device
    quiet_forward_ad()
    network.train()
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        check = _Check(problem)
        size = height_and_width(backbone.image_size)
        features = lay_out(torch.randn(_SAMPLES, backbone.in_channels, *size).to(network.alpha))
        others = {
            boundary: (f"auxiliaries.{k}.others.{at}", cast(nn.ModuleDict, mixed.others[at]))
            for k, mixed in enumerate(network.mixed)
            for at, boundary in enumerate(mixed.boundaries)
        }
        for i, layer in enumerate(backbone.layers):
            features = check.layer(f"backbone.layers.{i}", layer, features)
            if i in others:
                as_maps = backbone.shapes[i].as_maps(features)
                where, networks = others[i]
                for name, aux in networks.items():
                    check.layer(f"{where}.{name}", aux, as_maps)
        check.layer("backbone.head", backbone.head, features)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])


@dataclass
class _Call:
    """A module, by its name in the network, and what it is given."""

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def inputs(self) -> list[Tensor]:
        """Return what it can be differentiated with regard to, but for its weights."""
        given = (*self.args, *self.kwargs.values())
        return [each for each in given if isinstance(each, Tensor) and each.is_floating_point()]

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the results, as a list, for other such tensors."""
        left = iter(inputs)

        def new(each: Any) -> Any:
            is_input = isinstance(each, Tensor) and each.is_floating_point()
            return next(left) if is_input else each

        args = [new(each) for each in self.args]
        out = self.module(*args, **{key: new(each) for key, each in self.kwargs.items()})
        outs = out if isinstance(out, tuple | list) else [out]
        return [each for each in outs if isinstance(each, Tensor) and each.is_floating_point()]


class _Check:
    """The check of one network, with one direction p of all its weights."""

    def __init__(self, problem: InnerProblem) -> None:
        self._problem = problem
        # A view of one vector, as a weight is: for others, torch would copy the whole vector
        self._p = problem.weights.named(torch.randn_like(problem.weights.vector))

    def layer(self, name: str, module: nn.Module, features: Tensor) -> Tensor:
        """Check a layer and return what it makes of the features."""
        calls: list[_Call] = []
        whole = _Call(name, module, (features.detach(),))
        given, buffers = features.clone(), _buffers(module)
        with _backwards(module), _noting(calls, name, module), torch.no_grad():
            (out, *_) = whole.run(whole.inputs())
        if not torch.equal(given, features):
            raise _refused(name, "it writes into what it is given")
        for key, buffer in _buffers(module).items():
            if not torch.equal(buffer, buffers[key]):
                what = "a buffer that training changes, and no statistic of a batch norm module"
                raise _refused(f"{name}.{key}", what)
        reason = self._fault(whole)
        if reason is not None:
            for call in sorted(calls, key=lambda call: -call.name.count(".")):
                inner = self._fault(call)
                if inner is not None:
                    raise _refused(call.name, f"{type(call.module).__name__}: {inner}")
            raise _refused(name, reason)
        return out

    def _fault(self, call: _Call) -> str | None:
        """Return what is wrong with a module's derivatives, if anything is."""
        faults = [self._fault_with(call, 0)]
        while faults[-1] is not None and len(faults) < _TRIES:
            faults.append(self._fault_with(call, len(faults)))
        return None if faults[-1] is None else faults[0]

    def _fault_with(self, call: _Call, seed: int) -> str | None:
        weights = self._problem.weights_within(f"{call.name}.")
        inputs = [each.detach().requires_grad_() for each in call.inputs()]
        at = [*inputs, *weights.values()]
        moves = {name: self._p[name] for name in weights}
        torch.manual_seed(seed)
        along = [torch.randn_like(each).requires_grad_() for each in inputs]
        p = [*(each.detach() for each in along), *moves.values()]
        with _backwards(call.module):
            torch.manual_seed(seed)
            values = call.run([each.clone() for each in inputs])
        c = [torch.randn_like(each) for each in values]
        if not any(value.requires_grad for value in values):
            return None
        g = torch.autograd.grad(_inner(c, values), at, create_graph=True, materialize_grads=True)
        slope = _inner(g, p)
        try:
            adjoint = _gradient(slope, at)
        except RuntimeError:  # no second derivative in reverse mode; forward mode may have it
            adjoint = None

        try:
            with (
                dual_modules(call.module),
                DualOperators(),
                forward_ad.dual_level(),
                self._problem.moving(f"{call.name}.", moves),
            ):
                torch.manual_seed(seed)
                pairs = zip(inputs, along, strict=True)
                duals = call.run([forward_ad.make_dual(x.clone(), t.clone()) for x, t in pairs])
                primals, tangents = zip(*map(_parts, duals), strict=True)
            dual_slope = _inner(c, tangents)
            to_all = _gradient(dual_slope, [*at, *along])
        except RuntimeError as error:
            return _in_words(error)
        if not _close(primals, values):
            return "with dual numbers it computes something else"
        to_along = to_all[len(at) :]
        if not (_close([dual_slope], [slope]) and _close(to_along, g[: len(inputs)])):
            return "its forward derivative is not that of its backward pass"
        if adjoint is not None and not _close(to_all[: len(at)], adjoint):
            return "its forward derivative is differentiated wrongly"
        return None


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of all buffers but the batch counters of norms, of which nothing depends."""
    counters = {
        f"{path}.num_batches_tracked".lstrip(".")
        for path, part in module.named_modules()
        if isinstance(part, BatchNorm)
    }
    return {name: buffer.clone() for name, buffer in module.named_buffers() if name not in counters}


def _refused(name: str, reason: str) -> InputError:
    return InputError(
        f"backbone: sedona cannot differentiate through the training of "
        f"{name.removeprefix('backbone.')} ({reason}); probe and the other searches need not"
    )


@contextmanager
def _noting(calls: list[_Call], name: str, module: nn.Module) -> Iterator[None]:
    """Note what the modules within one are given, as it was then."""

    def kept(each: Any) -> Any:
        return each.detach().clone() if isinstance(each, Tensor) else each

    def note(path: str, part: nn.Module, args: Any, kwargs: Any) -> None:
        given = {key: kept(each) for key, each in kwargs.items()}
        calls.append(_Call(f"{name}.{path}", part, tuple(map(kept, args)), given))

    hooks = [
        part.register_forward_pre_hook(partial(note, path), with_kwargs=True)
        for path, part in module.named_modules()
        if part is not module
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _parts(dual: Tensor) -> tuple[Tensor, Tensor]:
    """Return value and tangent, which is 0 where there is none."""
    value, tangent = forward_ad.unpack_dual(dual)
    return value, torch.zeros_like(value) if tangent is None else tangent


@contextmanager
def _backwards(module: nn.Module) -> Iterator[None]:
    """Let a module compute what it does in training, by what torch can differentiate twice."""
    norms: dict[nn.Module, Callable[[Tensor], Tensor]] = {
        part: normalising_by(part, partial(_batch_norm, part))
        for part in module.modules()
        if isinstance(part, BatchNorm) and part.training
    }
    with replaced_forwards(norms), DualOperators(), sdpa_kernel(SDPBackend.MATH):
        yield


def _batch_norm(norm: BatchNorm, features: Tensor) -> Tensor:
    return F.batch_norm(features, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)


def _inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def _gradient(of: Tensor, at: Sequence[Tensor]) -> Sequence[Tensor]:
    if not of.requires_grad:
        return [torch.zeros_like(each) for each in at]
    return torch.autograd.grad(of, at, materialize_grads=True)


def _close(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    """Return whether tensors are equal but for rounding, each and as a part of all."""
    norms = [float(each.detach().norm()) for each in wanted]
    floor = 0.01 * max(norms)
    return all(
        float((one.detach() - other.detach()).norm()) <= _TOLERANCE * max(norm, floor)
        for one, other, norm in zip(got, wanted, norms, strict=True)
    )


def _in_words(error: RuntimeError) -> str:
    text = str(error)
    for pattern, lack in (
        (r"forward AD with (\S+) that", "has no forward derivative"),
        (r"derivative for (\S+) is not implemented", "has no second derivative"),
    ):
        found = re.search(pattern, text)
        if found:
            return f"{found[1]} {lack}"
    return text.partition("\n")[0]
