"""One differentiable training step of the relaxed network, forwards and backwards.

Notation (n weights; everything that training changes is a vector):
    w        (n,) weights of backbone and auxiliary networks
    s        (slots, n) state of the optimizer
    r        running statistics of all batch norms
    g        g(w, alpha, beta), shape (n,): the gradient that each weight learns from (`relaxation`)
    step     (w, s, r) -> (w', s', r'):
             w', s' = update(w, g, s) and r' = (1 - rho) r + rho (batch statistics at w)

Pulling a cotangent p of g back to (w, alpha, beta) means differentiating <g(w, alpha, beta), p>.
Reverse mode over reverse mode would need double-backward kernels, which are slow, and be wrong at
a gradient valve (see `relaxation.gradient_valve`). But <g, p> is a slope: the derivative of the
losses when w moves along p and every valve scales the *tangents* that pass it. So one forward pass
with dual numbers (value, tangent) computes it, and ordinary reverse mode of that pass is exact.

The auxiliary networks of a boundary are run and differentiated before those of the next are run, so
the graphs of two boundaries never exist together: memory is that of the backbone and one boundary.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from sedona_nni.batches import Batch
from sedona_nni.dual_norm import DualBatchNorm
from sedona_nni.relaxation import RelaxedNetwork, Valve, gradient_valve, tangent_valve

__all__ = ["Adam", "InnerOptimizer", "InnerProblem", "PulledBack", "Sgd", "TrainingState"]

Criterion = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TrainingState:
    """A moment of a training: all that the next step depends on.

    Attributes:
        weights: w, shape (n,).
        slots: s, shape (slots, n), see `InnerOptimizer`.
        statistics: r, shape (number of running statistics,).
        step: How many steps led here.
    """

    weights: Tensor
    slots: Tensor
    statistics: Tensor
    step: int


class InnerOptimizer(Protocol):
    """An update rule as a pure function of vectors, so that it can be differentiated."""

    @property
    def num_slots(self) -> int:
        """Vectors of state per weight."""

    def update(
        self, weights: Tensor, gradient: Tensor, slots: Tensor, lr: float, step: int
    ) -> tuple[Tensor, Tensor]:
        """Return the new weights (n,) and slots (slots, n) of step number ``step`` (from 0)."""


@dataclass(frozen=True)
class Sgd:
    """m' = mu m + g + wd w;  w' = w - lr m'  (torch's SGD)."""

    momentum: float = 0.9
    weight_decay: float = 0.0
    num_slots: int = 1

    def update(
        self, weights: Tensor, gradient: Tensor, slots: Tensor, lr: float, step: int
    ) -> tuple[Tensor, Tensor]:
        momentum = self.momentum * slots[0] + (gradient + self.weight_decay * weights)
        return weights - lr * momentum, momentum[None]


@dataclass(frozen=True)
class Adam:
    """torch's Adam with L2 weight decay: g~ = g + wd w;  m' = b1 m + (1 - b1) g~;
    v' = b2 v + (1 - b2) g~^2;  w' = w - lr m^ / (sqrt(v^) + eps), with bias-corrected m^ and v^.

    Where v' = 0 the root counts as the constant 0, since its derivative would be infinite.
    """

    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    num_slots: int = 2

    def update(
        self, weights: Tensor, gradient: Tensor, slots: Tensor, lr: float, step: int
    ) -> tuple[Tensor, Tensor]:
        b1, b2 = self.betas
        gradient = gradient + self.weight_decay * weights
        first = b1 * slots[0] + (1 - b1) * gradient
        second = b2 * slots[1] + (1 - b2) * gradient**2
        moved = second > 0
        root = torch.where(moved, torch.where(moved, second, 1.0).sqrt(), 0.0)
        root = root / (1 - b2 ** (step + 1)) ** 0.5
        weights = weights - lr / (1 - b1 ** (step + 1)) * first / (root + self.eps)
        return weights, torch.stack([first, second])


class _DifferentiableNorms(TorchFunctionMode):
    """Lets batch norms in evaluation mode be functions of their running statistics, too.

    torch's kernel takes these for constants, but they depend on the weights that made them.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        (features, mean, var), named = args, kwargs or {}
        shape = (1, -1, *[1] * (features.dim() - 2))
        scale = named["weight"] * (var + named["eps"]).rsqrt()
        return features * scale.view(shape) + (named["bias"] - mean * scale).view(shape)


@functools.cache
def _quiet_forward_ad() -> None:
    """Use dual numbers once, so that torch says what it says on first use here and not to users.

    (It registers derivative formulas with torch.jit.script, which it deprecates itself.)
    """
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


class _Vector:
    """Named tensors laid out one after the other in a vector."""

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:
        pairs = list(named)
        self.names = [name for name, _ in pairs]
        self.shapes = [tensor.shape for _, tensor in pairs]
        self.sizes = [tensor.numel() for _, tensor in pairs]

    def join(self, tensors: Iterable[Tensor]) -> Tensor:
        parts = [tensor.detach().reshape(-1) for tensor in tensors]
        return torch.cat(parts) if parts else torch.empty(0)

    def split(self, vector: Tensor) -> list[Tensor]:
        """Return views of ``vector`` with the tensors' shapes."""
        parts = vector.split(self.sizes)
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the same views by name."""
        return dict(zip(self.names, self.split(vector), strict=True))

    def leaves(self, vector: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the tensors as leaves of a new graph, and the vector of their future gradients."""
        gradient = torch.zeros_like(vector)
        leaves = {}
        for name, value, into in zip(
            self.names, self.split(vector.detach()), self.split(gradient), strict=True
        ):
            leaves[name] = value.requires_grad_()
            leaves[name].grad = into
        return leaves, gradient


@dataclass(frozen=True)
class PulledBack:
    """Cotangents of what a step started from: of (w, s, r) as vectors, and of (alpha, beta)."""

    weights: Tensor
    slots: Tensor
    statistics: Tensor
    alpha: Tensor
    beta: Tensor


class InnerProblem:
    """The relaxed network's training as a map of states, and the adjoint of that map.

    Args:
        network: Used for its structure, alpha and beta; weights live in `TrainingState`.
        optimizer: The update rule.
        criterion: (logits, labels) -> mean loss over the batch, shape ().
    """

    def __init__(
        self, network: RelaxedNetwork, optimizer: InnerOptimizer, criterion: Criterion
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.criterion = criterion
        self._weights = _Vector(network.named_weights())
        self._rho = {
            name: module.momentum
            for name, module in network.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum
        }
        self._statistics = _Vector(self._running_statistics())
        self._keep = self._statistics.join(
            torch.full_like(tensor, 1 - self._rho[name.rpartition(".")[0]])
            for name, tensor in self._running_statistics()
        )

    def _running_statistics(self) -> Iterator[tuple[str, Tensor]]:
        for name in self._rho:
            for which in ("running_mean", "running_var"):
                yield f"{name}.{which}", self.network.get_buffer(f"{name}.{which}")

    def state(self) -> TrainingState:
        """Return the state that the network's own weights are in, before the first step."""
        weights = self._weights.join(weight for _, weight in self.network.named_weights())
        return TrainingState(
            weights=weights,
            slots=weights.new_zeros(self.optimizer.num_slots, len(weights)),
            statistics=self._statistics.join(tensor for _, tensor in self._running_statistics()),
            step=0,
        )

    @torch.no_grad()
    def load(self, state: TrainingState) -> None:
        """Put a state's weights and running statistics into the network."""
        for (_, weight), value in zip(
            self.network.named_weights(), self._weights.split(state.weights), strict=True
        ):
            weight.copy_(value)
        for (_, tensor), value in zip(
            self._running_statistics(), self._statistics.split(state.statistics), strict=True
        ):
            tensor.copy_(value)

    def gradient(
        self, state: TrainingState, batch: Batch, seed: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return g(w, alpha, beta) (n,), the new statistics r', and the L losses (L,).

        Args:
            state: Where the training is.
            batch: Images (B, channels, size, size) and labels (B,).
            seed: Of the dropout masks; the same seed draws the same masks.
        """
        images, labels = batch
        weights, gradient = self._weights.leaves(state.weights)
        statistics = state.statistics.clone()
        named = weights | self._statistics.named(statistics)
        with self._training(seed):
            at_boundaries, logits = functional_call(self.network, named, (images, gradient_valve))
            losses, to_boundaries = [], []
            for i, features in enumerate(at_boundaries):
                leaf = features.detach().requires_grad_()
                local_logits = self._local_logits(i, named, leaf, gradient_valve)
                losses.append(self.criterion(local_logits, labels))
                losses[-1].backward()
                to_boundaries.append(leaf.grad)
            losses.append(self.criterion(logits, labels))
            torch.autograd.backward([*at_boundaries, losses[-1]], [*to_boundaries, None])
        self.network.zero_grad()
        return gradient, statistics, torch.stack(losses).detach()

    def update(
        self, state: TrainingState, gradient: Tensor, statistics: Tensor, lr: float
    ) -> TrainingState:
        """Return the state after the optimizer used ``gradient``."""
        weights, slots = self.optimizer.update(state.weights, gradient, state.slots, lr, state.step)
        return TrainingState(weights, slots, statistics, state.step + 1)

    def step(
        self, state: TrainingState, batch: Batch, lr: float, seed: int
    ) -> tuple[TrainingState, Tensor]:
        """Return the state after one training step, and the L losses that it started from."""
        gradient, statistics, losses = self.gradient(state, batch, seed)
        return self.update(state, gradient, statistics, lr), losses

    def validation(
        self, state: TrainingState, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Judge a state by the undivided backbone and its final head, as it will be used.

        Batch norms use their running statistics, dropout is off.

        Returns:
            The mean loss, shape (); the accuracy, shape (); the loss's gradients with regard to
            the weights (n,) and to the running statistics.
        """
        images, labels = batch
        weights, to_weights = self._weights.leaves(state.weights)
        statistics, to_statistics = self._statistics.leaves(state.statistics)
        prefix = "backbone."
        inside = {
            name.removeprefix(prefix): tensor
            for name, tensor in {**weights, **statistics}.items()
            if name.startswith(prefix)
        }
        self.network.eval()
        with _DifferentiableNorms():
            logits = functional_call(self.network.backbone, inside, (images,))
        loss = self.criterion(logits, labels)
        loss.backward()
        accuracy = (logits.detach().argmax(1) == labels).double().mean()
        return loss.detach(), accuracy, to_weights, to_statistics

    def pull_back(
        self,
        state: TrainingState,
        gradient: Tensor,
        batch: Batch,
        lr: float,
        seed: int,
        after: PulledBack,
    ) -> PulledBack:
        """Pull cotangents of a step's result back to what the step started from.

        The step is that of ``step(state, batch, lr, seed)``; ``gradient`` is the one it used.
        ``after`` holds the cotangents of (w', s', r') and what later steps gave alpha and beta, to
        which this step adds its part.
        """

        def update(weights: Tensor, used: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
            return self.optimizer.update(weights, used, slots, lr, state.step)

        pull = torch.func.vjp(update, state.weights, gradient, state.slots)[1]
        to_weights, to_gradient, to_slots = pull((after.weights, after.slots))
        through = self._pull_back_gradient(state, batch, seed, to_gradient, after.statistics)
        return PulledBack(
            weights=to_weights + through.weights,
            slots=to_slots,
            statistics=self._keep * after.statistics,
            alpha=after.alpha + through.alpha,
            beta=after.beta + through.beta,
        )

    def _pull_back_gradient(
        self,
        state: TrainingState,
        batch: Batch,
        seed: int,
        direction: Tensor,
        to_statistics: Tensor,
    ) -> PulledBack:
        """Differentiate <g(w, alpha, beta), direction> + <r'(w), to_statistics>."""
        _quiet_forward_ad()
        images, labels = batch
        weights, to_weights = self._weights.leaves(state.weights)
        tangents = self._weights.named(direction)
        scratch = self._statistics.named(state.statistics.clone())

        def duals(prefix: str) -> dict[str, Tensor]:
            return {
                name: forward_ad.make_dual(weight, tangents[name])
                for name, weight in weights.items()
                if name.startswith(prefix)
            } | scratch

        with self._training(seed), DualBatchNorm():
            with forward_ad.dual_level(), self._batch_statistics(to_statistics) as terms:
                at_boundaries, logits = functional_call(
                    self.network, duals("backbone."), (images, tangent_valve)
                )
                final = sum(terms, self._loss_slope(logits, labels))
                pairs = [forward_ad.unpack_dual(features) for features in at_boundaries]
            to_pairs = []
            for i, pair in enumerate(pairs):
                value, tangent = (part.detach().requires_grad_() for part in pair)
                with forward_ad.dual_level():
                    features = forward_ad.make_dual(value, tangent)
                    named = duals(f"auxiliaries.{i}.")
                    slope = self._loss_slope(
                        self._local_logits(i, named, features, tangent_valve), labels
                    )
                slope.backward()
                to_pairs.append((value.grad, tangent.grad))
            torch.autograd.backward(
                [*(part for pair in pairs for part in pair), final],
                [*(part for pair in to_pairs for part in pair), None],
            )
        alpha, beta = (
            torch.zeros_like(arch) if arch.grad is None else arch.grad
            for arch in (self.network.alpha, self.network.beta)
        )
        self.network.zero_grad()
        return PulledBack(to_weights, torch.zeros_like(state.slots), to_statistics, alpha, beta)

    def _local_logits(
        self, boundary: int, named: dict[str, Tensor], features: Tensor, valve: Valve
    ) -> Tensor:
        """Return the logits that the local loss is taken of, for the features at a boundary."""
        a_loc = self.network.alpha[boundary].softmax(0)[0]
        return self._mixed_logits(boundary, named, valve(features, a_loc))

    def _mixed_logits(self, boundary: int, named: dict[str, Tensor], features: Tensor) -> Tensor:
        prefix = f"auxiliaries.{boundary}."
        inside = {
            name.removeprefix(prefix): tensor
            for name, tensor in named.items()
            if name.startswith(prefix)
        }
        b = self.network.beta[boundary].softmax(0)
        logits: Tensor = functional_call(self.network.auxiliaries[boundary], inside, (features, b))
        return logits

    def _loss_slope(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return <d loss / d logits, tangent of the logits>.

        Written with the gradient, not with the loss's own tangent: torch's forward derivative of
        log_softmax cannot be differentiated again.
        """
        value, tangent = forward_ad.unpack_dual(logits)
        (gradient,) = torch.autograd.grad(self.criterion(value, labels), value, create_graph=True)
        return (gradient * tangent).sum()

    @contextmanager
    def _batch_statistics(self, to_statistics: Tensor) -> Iterator[list[Tensor]]:
        """Collect rho <batch statistics, cotangent of the running ones> of the backbone's norms.

        Validation uses the backbone's running statistics alone, so only those have cotangents.
        """
        cotangents = self._statistics.named(to_statistics)
        terms: list[Tensor] = []

        def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                value = forward_ad.unpack_dual(inputs[0]).primal
                over = [d for d in range(value.dim()) if d != 1]
                var, mean = torch.var_mean(value, over, correction=1)
                terms.append(self._rho[name] * (cotangents[f"{name}.running_mean"] @ mean))
                terms.append(self._rho[name] * (cotangents[f"{name}.running_var"] @ var))

            return hook

        handles = [
            self.network.get_submodule(name).register_forward_pre_hook(watch(name))
            for name in self._rho
            if name.startswith("backbone.")
        ]
        try:
            yield terms
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _training(self, seed: int) -> Iterator[None]:
        """Training mode, with random numbers of ``seed`` that leave the caller's as they are."""
        device = self.network.alpha.device
        self.network.train()
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield
