"""The relaxed network's training in its plain form: what the library is compared with.

Everything here is ordinary autograd, one module per auxiliary network and, for the hypergradient,
one graph from the first inner step to the validation loss. Notation of
`sedona_nni.searches.sedona.relaxation`:

    R_0 = G_0 = a_0^loc l_0 + a_0^up (a_1^loc l_1 + a_1^up (...))
    p_i = product of a_k^up, k < i

    dR_0 / d (weights of layer i)                  = p_i dG_i / dw_i,            so divide by p_i
    dR_0 / d (auxiliary networks at boundary i)    = p_i a_i^loc dl_i / dw       likewise

The divisors stay in the graph, since p_i and a_i^loc depend on alpha. A gradient valve would not
do: differentiated twice in reverse it is wrong, see `searches.sedona.relaxation.gradient_valve`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from operator import mul
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sedona_nni.data.batches import Batch
from sedona_nni.models import Activation, Backbone, initialise, scaled_width
from sedona_nni.searches.sedona.inner_step import InnerOptimizer
from sedona_nni.teachers.auxiliary import (
    AuxiliaryContext,
    ConvAuxiliary,
    auxiliary_context,
    build_auxiliary,
)

__all__ = [
    "NaiveNetwork",
    "light_network",
    "meta_loss",
    "relaxed_gradient",
    "relaxed_losses",
    "relaxed_objective",
    "relaxed_step",
    "train",
]

Criterion = Callable[[Tensor, Tensor], Tensor]
Named = dict[str, Tensor]


def _unit(
    channels: int,
    width: int,
    kernel: int,
    activation: Activation | None,
    stride: int = 1,
    groups: int = 1,
) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(width), *([activation()] if activation else [])]


class _Residual(nn.Sequential):
    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = super().forward(features)
        return features + out if features.shape == out.shape else out


def light_network(depth: int, context: AuxiliaryContext) -> nn.Sequential:
    """Return `teachers.auxiliary.ConvAuxiliary` of a depth as a plain sequence of modules.

    Its parameters and buffers come in the same order.
    """
    e, act = context.expansion, context.activation
    width, size = max(1, context.shape.channels // e), context.shape.height // 2
    parts = [
        *_unit(context.shape.channels, width, 1, act),
        *_unit(width, width, 3, act, stride=2, groups=width),
    ]
    step = width // 2 if e > 1 else width
    for index in range(depth - 1):
        halves = index % 2 == 1 and size >= 2
        inner, wider = width * e, width + step * halves
        widen = _unit(width, inner, 1, act) if e > 1 else []
        filters = _unit(inner, inner, 3, act, stride=1 + halves, groups=inner)
        parts.append(_Residual(*widen, *filters, *_unit(inner, wider, 1, None)))
        width, size = wider, size // (1 + halves)
    final = scaled_width(512, context.width_multiplier)
    parts += [*_unit(width, final, 1, act), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*parts, nn.Linear(final, context.num_classes))
    initialise(network)
    return network


def _candidate(name: str, context: AuxiliaryContext) -> nn.Module:
    network = build_auxiliary(name, context)
    return light_network(network.depth, context) if isinstance(network, ConvAuxiliary) else network


class NaiveNetwork(nn.Module):
    """A backbone and, at every boundary, each auxiliary candidate as a module of its own.

    Attributes:
        backbone: The backbone; it is trained, too.
        auxiliaries: ``auxiliaries[i][c]`` is candidate c at boundary i.
    """

    def __init__(self, backbone: Backbone, aux_choices: Sequence[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.auxiliaries = nn.ModuleList(
            nn.ModuleList(_candidate(name, auxiliary_context(backbone, i)) for name in aux_choices)
            for i in range(backbone.num_layers - 1)
        )

    def forward(self, images: Tensor, beta: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the L-1 local logits and the final ones, each (B, classes)."""
        at_boundaries, features = [], images
        for layer in self.backbone.layers:
            features = layer(features)
            at_boundaries.append(features)
        final = self.backbone.head(features)
        local = [
            self.local_logits(i, features, b)
            for i, (features, b) in enumerate(zip(at_boundaries[:-1], beta.softmax(1), strict=True))
        ]
        return local, final

    def local_logits(self, boundary: int, features: Tensor, b: Tensor) -> Tensor:
        """Return sum_c b_c aux_c(h), (B, classes), of the features h at a boundary."""
        candidates = self._candidates(boundary)
        return sum(
            (b_c * aux(features) for b_c, aux in zip(b, candidates, strict=True)),
            features.new_zeros(()),
        )

    def _candidates(self, boundary: int) -> Iterator[nn.Module]:
        candidates = self.auxiliaries[boundary]
        assert isinstance(candidates, nn.ModuleList)
        return iter(candidates)

    def divisors(self, alpha: Tensor) -> dict[str, Tensor]:
        """Return what each weight's gradient of R_0 is to be divided by, see the module."""
        a = alpha.softmax(1)
        above = list(accumulate(a[:, 1], mul, initial=torch.ones_like(a[0, 0])))
        by_name = {}
        for name, _ in self.named_parameters():
            part, _, rest = name.partition(".")
            boundary = int(rest.partition(".")[0]) if part == "auxiliaries" else self._layer(rest)
            by_name[name] = above[boundary]
            if part == "auxiliaries":
                by_name[name] = above[boundary] * a[boundary, 0]
        return by_name

    def _layer(self, name: str) -> int:
        part, _, rest = name.partition(".")
        return int(rest.partition(".")[0]) if part == "layers" else len(self.auxiliaries)


class _Statistics(TorchFunctionMode):
    """Lets some batch norms be functions of their running statistics, which torch's are not.

    Args:
        tracked: The running statistics that count, as they are given to the network.

    Attributes:
        updated: By the id of each of them, what it becomes: (1 - rho) r + rho (batch's).
    """

    def __init__(self, tracked: Sequence[Tensor]) -> None:
        super().__init__()
        self._tracked = {id(tensor) for tensor in tracked}
        self.updated: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.batch_norm or id(args[1]) not in self._tracked:
            return func(*args, **kwargs)
        features, mean, var = args
        over = [d for d in range(features.dim()) if d != 1]
        if kwargs["training"]:
            rho = kwargs["momentum"]
            for running, batch in zip(
                (var, mean), torch.var_mean(features, over, correction=1), strict=True
            ):
                self.updated[id(running)] = (1 - rho) * running + rho * batch
            return func(features, None, None, **kwargs)
        shape = (1, -1, *[1] * (features.dim() - 2))
        scale = kwargs["weight"] * (var + kwargs["eps"]).rsqrt()
        return features * scale.view(shape) + (kwargs["bias"] - mean * scale).view(shape)


def relaxed_losses(
    network: NaiveNetwork,
    weights: Named,
    statistics: Named,
    beta: Tensor,
    batch: Batch,
    criterion: Criterion,
) -> tuple[list[Tensor], Tensor, Named]:
    """Return the L-1 local losses, the final one, and the new running statistics by name."""
    images, labels = batch
    # Those of auxiliary networks count for nothing: torch's kernel writes over them
    given = {
        name: value if name.startswith("backbone.") else value.detach().clone()
        for name, value in statistics.items()
    }
    network.train()
    with _Statistics([given[n] for n in given if n.startswith("backbone.")]) as norms:
        local, final = functional_call(network, {**weights, **given}, (images, beta))
    new = {name: norms.updated.get(id(value), value) for name, value in given.items()}
    return [criterion(logits, labels) for logits in local], criterion(final, labels), new


def relaxed_objective(alpha: Tensor, local: Sequence[Tensor], final: Tensor) -> Tensor:
    """Return R_0 = a_0^loc l_0 + a_0^up R_1, down from R_{L-1}, the final loss."""
    total = final
    for (a_loc, a_up), loss in reversed(list(zip(alpha.softmax(1), local, strict=True))):
        total = a_loc * loss + a_up * total
    return total


def relaxed_gradient(
    network: NaiveNetwork,
    weights: Named,
    statistics: Named,
    alpha: Tensor,
    beta: Tensor,
    batch: Batch,
    criterion: Criterion,
) -> tuple[Named, Named]:
    """Return the gradient that each weight learns from, with its graph, and new statistics."""
    local, final, new = relaxed_losses(network, weights, statistics, beta, batch, criterion)
    total = relaxed_objective(alpha, local, final)
    gradients = torch.autograd.grad(total, list(weights.values()), create_graph=True)
    divisors = network.divisors(alpha)
    return {
        name: gradient / divisors[name] for name, gradient in zip(weights, gradients, strict=True)
    }, new


def train(
    network: NaiveNetwork,
    weights: Named,
    slots: Named,
    statistics: Named,
    alpha: Tensor,
    beta: Tensor,
    batches: Sequence[Batch],
    criterion: Criterion,
    optimizer: InnerOptimizer,
    *,
    lrs: Sequence[float],
    seed: int,
    step: int = 0,
) -> tuple[Named, Named, Named]:
    """Return weights, slots and statistics after one step per batch, with their whole graph.

    Args:
        network: For its structure.
        weights: By name, each requiring gradients.
        slots: The optimizer's state by name, each (slots, *shape of the weight).
        statistics: Running statistics by name.
        alpha: Shape (L-1, 2).
        beta: Shape (L-1, C).
        batches: One per step.
        criterion: (logits, labels) -> mean loss, shape ().
        optimizer: The update rule.
        lrs: Learning rate of each step.
        seed: Step t draws its dropout masks with ``seed + t``.
        step: Number of the first step.
    """
    for t, batch in enumerate(batches):
        torch.manual_seed(seed + t)
        gradient, statistics = relaxed_gradient(
            network, weights, statistics, alpha, beta, batch, criterion
        )
        after = {
            name: optimizer.update(weight, gradient[name], slots[name], lrs[t], step + t)
            for name, weight in weights.items()
        }
        weights = {name: weight for name, (weight, _) in after.items()}
        slots = {name: slot for name, (_, slot) in after.items()}
    return weights, slots, statistics


def meta_loss(
    network: NaiveNetwork,
    weights: Named,
    slots: Named,
    statistics: Named,
    alpha: Tensor,
    beta: Tensor,
    train_batches: Sequence[Batch],
    validation_batch: Batch,
    criterion: Criterion,
    optimizer: InnerOptimizer,
    *,
    lrs: Sequence[float],
    seed: int,
    step: int = 0,
) -> Tensor:
    """Return the validation loss after training, with the graph of all of it.

    `torch.autograd.grad` of it is the hypergradient of `searches.sedona.hypergradient`. Takes what
    `train` does, alpha and beta requiring gradients.
    """
    weights, _, statistics = train(
        network,
        weights,
        slots,
        statistics,
        alpha,
        beta,
        train_batches,
        criterion,
        optimizer,
        lrs=lrs,
        seed=seed,
        step=step,
    )
    images, labels = validation_batch
    prefix = "backbone."
    inside = {
        name.removeprefix(prefix): tensor
        for name, tensor in {**weights, **statistics}.items()
        if name.startswith(prefix)
    }
    network.eval()
    with _Statistics(list(inside.values())):
        logits = functional_call(network.backbone, inside, (images,))
    return criterion(logits, labels)


def relaxed_step(
    network: NaiveNetwork,
    optimizer: torch.optim.Optimizer,
    alpha: Tensor,
    beta: Tensor,
    batch: Batch,
    criterion: Criterion,
) -> None:
    """Train the network in place for one step, as a training loop does it."""
    images, labels = batch
    network.train()
    local, final = network(images, beta)
    losses = [criterion(logits, labels) for logits in local]
    optimizer.zero_grad()
    relaxed_objective(alpha, losses, criterion(final, labels)).backward()
    divisors = network.divisors(alpha.detach())
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        parameter.grad /= divisors[name]
    optimizer.step()
