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
few graphs ever exist together: memory is that of the backbone and of one boundary per CPU thread.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from sedona_nni.data.batches import Batch
from sedona_nni.errors import InputError
from sedona_nni.models.batch_norm import BatchNorm, batch_norm
from sedona_nni.models.placement import lay_out
from sedona_nni.searches.sedona.dual_modules import dual_modules
from sedona_nni.searches.sedona.dual_operators import DualOperators
from sedona_nni.searches.sedona.normalising import normalising, normalising_by, replaced_forwards
from sedona_nni.searches.sedona.relaxation import (
    MixedAuxiliary,
    RelaxedNetwork,
    Valve,
    gradient_valve,
    tangent_valve,
)

__all__ = [
    "ALIGNED",
    "VALIDATION_PIECE",
    "Adam",
    "FlatTensors",
    "InnerOptimizer",
    "InnerProblem",
    "PulledBack",
    "Sgd",
    "TrainingState",
    "quiet_forward_ad",
    "seeded",
]

Criterion = Callable[[Tensor, Tensor], Tensor]
Results = TypeVar("Results", bound=tuple[Tensor, ...])


class Launch(Protocol):
    """See `InnerProblem.launch`."""

    def __call__(self, work: Callable[..., Results], *inputs: Any) -> Results:
        """Return what ``work(*inputs)`` does."""


ALIGNED = {"cpu": 1, "cuda": 64}
"""By kind of device, how many numbers a weight's place in a vector is a multiple of.

cuDNN's batch norms read several at once, from addresses that have to be multiples of so many bytes,
and crash at others. 64 numbers of any type are more than any kernel asks for."""

VALIDATION_PIECE = 64
"""Images that are validated at a time on a CPU, as its cache is small; a GPU takes them all."""


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


class InnerOptimizer(ABC):
    """An update rule as a pure function of vectors, so that it can be differentiated."""

    @property
    @abstractmethod
    def num_slots(self) -> int:
        """Vectors of state per weight."""

    @abstractmethod
    def update(
        self, weights: Tensor, gradient: Tensor, slots: Tensor, lr: float, step: int
    ) -> tuple[Tensor, Tensor]:
        """Return the new weights (n,) and slots (slots, n) of step number ``step`` (from 0)."""

    def pull_back(
        self,
        weights: Tensor,
        gradient: Tensor,
        slots: Tensor,
        lr: float,
        step: int,
        to_weights: Tensor,
        to_slots: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pull cotangents of the update's results back to weights, gradient and slots.

        By automatic differentiation, unless a rule knows better.
        """
        w, g, s = (part.detach().requires_grad_() for part in (weights, gradient, slots))
        new_weights, new_slots = self.update(w, g, s, lr, step)
        # (torch.func.vjp would say the same, but it loads 230 MiB of compiler)
        pulled = (new_weights * to_weights).sum() + (new_slots * to_slots).sum()
        to_w, to_g, to_s = torch.autograd.grad(pulled, (w, g, s))
        return to_w, to_g, to_s


@dataclass(frozen=True)
class Sgd(InnerOptimizer):
    """m' = mu m + g + wd w;  w' = w - lr m'  (torch's SGD).

    With c the cotangent of m' in all, that of m' itself less lr times that of w': those of m, g
    and w are mu c, c, and that of w' plus wd c.
    """

    momentum: float = 0.9
    weight_decay: float = 0.0

    @property
    def num_slots(self) -> int:
        """See `InnerOptimizer.num_slots`."""
        return 1

    def update(
        self, weights: Tensor, gradient: Tensor, slots: Tensor, lr: float, step: int
    ) -> tuple[Tensor, Tensor]:
        """See `InnerOptimizer.update`."""
        momentum = torch.add(gradient, weights, alpha=self.weight_decay)
        momentum = torch.add(momentum, slots[0], alpha=self.momentum)
        return torch.add(weights, momentum, alpha=-lr), momentum[None]

    def pull_back(
        self,
        weights: Tensor,
        gradient: Tensor,
        slots: Tensor,
        lr: float,
        step: int,
        to_weights: Tensor,
        to_slots: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `InnerOptimizer.pull_back`."""
        c = torch.add(to_slots[0], to_weights, alpha=-lr)
        to_w = torch.add(to_weights, c, alpha=self.weight_decay)
        return to_w, c, (self.momentum * c)[None]


@dataclass(frozen=True)
class Adam(InnerOptimizer):
    """torch's Adam with L2 weight decay: g~ = g + wd w;  m' = b1 m + (1 - b1) g~;
    v' = b2 v + (1 - b2) g~^2;  w' = w - lr m^ / (sqrt(v^) + eps), with bias-corrected m^ and v^.

    `decoupled`, the decay is AdamW's: g~ = g, and w' less lr wd w.

    Where v' = 0 the root counts as the constant 0, since its derivative would be infinite.
    """

    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decoupled: bool = False

    @property
    def num_slots(self) -> int:
        """See `InnerOptimizer.num_slots`."""
        return 2

    def update(
        self, weights: Tensor, gradient: Tensor, slots: Tensor, lr: float, step: int
    ) -> tuple[Tensor, Tensor]:
        """See `InnerOptimizer.update`."""
        b1, b2 = self.betas
        decayed = (1 - lr * self.weight_decay) * weights if self.decoupled else weights
        gradient = gradient if self.decoupled else gradient + self.weight_decay * weights
        first = b1 * slots[0] + (1 - b1) * gradient
        second = b2 * slots[1] + (1 - b2) * gradient**2
        moved = second > 0
        root = torch.where(moved, torch.where(moved, second, 1.0).sqrt(), 0.0)
        root = root / (1 - b2 ** (step + 1)) ** 0.5
        weights = decayed - lr / (1 - b1 ** (step + 1)) * first / (root + self.eps)
        return weights, torch.stack([first, second])


def _evaluating_norm(norm: BatchNorm, mean: Tensor, var: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a batch norm in evaluation mode as a function of its running statistics, too.

    torch's kernel takes these for constants, but they depend on the weights that made them.
    """

    def forward(features: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (features.dim() - 2))
        scale = (var + norm.eps).rsqrt()
        if norm.affine:
            scale = norm.weight * scale
        shift = norm.bias - mean * scale if norm.affine else -mean * scale
        return features * scale.view(shape) + shift.view(shape)

    return normalising_by(norm, forward)


def _multiplies_matrices(weight: Tensor) -> bool:
    """Return whether work is spared where such a weight has no tangent, rather than one of zeros.

    With the others nothing would be: torch asks Python for the shape of a sum or a product of
    numbers, one of which has none, and Python loads a compiler to answer (150 MiB, a second).
    """
    return weight.dim() > 1 and weight.shape[1] > 1


def _slope(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Return <d loss / d logits, tangent of the logits>.

    Written with the gradient, not with the loss's own tangent: torch's forward derivative of
    log_softmax cannot be differentiated again.
    """
    value, tangent = forward_ad.unpack_dual(logits)
    leaf = value if value.requires_grad else value.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    return (gradient * tangent).sum()


def _weights(network: RelaxedNetwork) -> Iterator[tuple[str, nn.Parameter]]:
    for name, weight in network.named_weights():
        if weight.dtype != network.alpha.dtype:
            rule = f"weights must be of {network.alpha.dtype} to be searched by sedona"
            raise InputError.rule(name, rule, weight.dtype)
        yield name, weight


def _following_norms(network: RelaxedNetwork) -> dict[str, BatchNorm]:
    """Return the batch norms whose running statistics follow the batches of training.

    A module may keep its norms in evaluation mode for good; such statistics are constants.
    """
    network.train()
    norms = {}
    for name, norm in network.named_modules():
        if isinstance(norm, BatchNorm) and norm.training and norm.momentum != 0:
            if norm.running_mean is None:
                rule = "batch norms must keep running statistics to be searched by sedona"
                raise InputError.rule(name, rule, norm)
            if norm.momentum is None:
                rule = "batch norms must have a momentum to be searched by sedona"
                raise InputError.rule(name, rule, norm)
            norms[name] = norm
    return norms


def _with_operators(work: Callable[..., Any]) -> Callable[..., Any]:
    """Return work with `DualOperators` on, which is a matter of each thread."""

    def with_operators(*args: Any) -> Any:
        with DualOperators():
            return work(*args)

    return with_operators


@functools.cache
def quiet_forward_ad() -> None:
    """Use dual numbers once, so that torch says what it says on first use here and not to users.

    (It registers derivative formulas with torch.jit.script, which it deprecates itself.)
    """
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


class FlatTensors:
    """Named tensors of a module, from now on views of one vector.

    Each begins at a multiple of `ALIGNED` numbers. What lies between is 0 and stays so, as it has
    no gradient.

    Attributes:
        tensors: They, by name.
        names: Their names.
        vector: All numbers, shape (n,).
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]], like: Tensor) -> None:
        self.tensors = dict(named)
        self.names = list(self.tensors)
        self._sizes = [tensor.numel() for tensor in self.tensors.values()]
        step = ALIGNED.get(like.device.type, 1)
        self._lengths = [-(-size // step) * step for size in self._sizes]
        self.vector = like.detach().new_zeros(sum(self._lengths))
        for tensor, view in zip(self.tensors.values(), self.split(self.vector), strict=True):
            view.copy_(tensor.detach())
            tensor.data = view

    def split(self, vector: Tensor) -> list[Tensor]:
        """Return views of a vector with the tensors' shapes."""
        return [
            part[: tensor.numel()].view(tensor.shape)
            for part, tensor in zip(vector.split(self._lengths), self.tensors.values(), strict=True)
        ]

    def packed(self, vectors: Tensor) -> Tensor:
        """Return vectors, shape (..., n), without what lies between the tensors."""
        if self._lengths == self._sizes:
            return vectors
        parts = zip(vectors.split(self._lengths, -1), self._sizes, strict=True)
        return torch.cat([part[..., :size] for part, size in parts], -1)

    def unpacked(self, vectors: Tensor) -> Tensor:
        """Undo `packed`."""
        if self._lengths == self._sizes:
            return vectors
        parts = zip(vectors.split(self._sizes, -1), self._lengths, strict=True)
        return torch.cat([F.pad(part, (0, length - part.shape[-1])) for part, length in parts], -1)

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the same views by name."""
        return dict(zip(self.names, self.split(vector), strict=True))

    def gradients(self) -> Tensor:
        """Return a vector of zeros to which the next backward pass adds its gradients."""
        gradient = torch.zeros_like(self.vector)
        for tensor, view in zip(self.tensors.values(), self.split(gradient), strict=True):
            tensor.grad = view
        return gradient


class _Place(NamedTuple):
    """Where a module finds a weight."""

    path: str
    name: str  # in `FlatTensors`: one for all places
    parameters: dict[str, Any]
    key: str


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

    The state has the weights that have gradients, and the running statistics of the batch norms
    that follow the batches; these must be modules. Frozen weights, norms that stay in evaluation
    mode and other buffers are constants. `layer_check` says whether all layers are such.

    Args:
        network: Used for its structure, alpha and beta. Its weights and running statistics become
            views of two vectors, and hold whatever state was worked on last.
        optimizer: The update rule.
        criterion: (logits, labels) -> mean loss over the batch, shape ().

    Attributes:
        weights: The network's weights, as one vector and by name.
        statistics: Its batch norms' running means and variances, likewise.
        launch: How work on tensors is done, a function of these, of the network's tensors, which
            stay where they are, and of torch's generator: by calling it, or by
            `cuda_graphs.Graphs`.

    Raises:
        InputError: if weights are of another type than the network's alpha, or a batch norm keeps
            no running statistics or averages them over all batches.
    """

    def __init__(
        self, network: RelaxedNetwork, optimizer: InnerOptimizer, criterion: Criterion
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.criterion = criterion
        self.weights = FlatTensors(_weights(network), network.alpha)
        names = {id(weight): name for name, weight in self.weights.tensors.items()}
        self._places: list[_Place] = []
        for path, weight in network.named_parameters(remove_duplicate=False):
            if id(weight) in names:
                owner, _, key = path.rpartition(".")
                parameters = network.get_submodule(owner)._parameters
                self._places.append(_Place(path, names[id(weight)], parameters, key))
        self._norms = _following_norms(network)
        self.statistics = FlatTensors(
            (
                (f"{name}.{which}", getattr(norm, which))
                for name, norm in self._norms.items()
                for which in ("running_mean", "running_var")
            ),
            network.alpha,
        )
        keep = torch.empty_like(self.statistics.vector)
        for name, part in self.statistics.named(keep).items():
            part.fill_(1 - cast(float, self._norms[name.rpartition(".")[0]].momentum))
        self._keep = keep
        self.launch: Launch = _by_calling

    def state(self) -> TrainingState:
        """Return the state that the network's own weights are in, before the first step."""
        weights = self.weights.vector.clone()
        slots = weights.new_zeros(self.optimizer.num_slots, len(weights))
        return TrainingState(weights, slots, self.statistics.vector.clone(), step=0)

    def load(self, state: TrainingState) -> None:
        """Put a state's weights and running statistics into the network."""
        self._load(state.weights, state.statistics)

    def _load(self, weights: Tensor, statistics: Tensor) -> None:
        self.weights.vector.copy_(weights)
        self.statistics.vector.copy_(statistics)

    def packed(self, state: TrainingState) -> TrainingState:
        """Return a state as it is kept: with the same vectors whatever the device."""
        weights, slots = (self.weights.packed(part) for part in (state.weights, state.slots))
        return TrainingState(weights, slots, self.statistics.packed(state.statistics), state.step)

    def unpacked(self, state: TrainingState) -> TrainingState:
        """Undo `packed`, on the network's device."""
        device = self.weights.vector.device
        weights, slots = (
            self.weights.unpacked(part.to(device)) for part in (state.weights, state.slots)
        )
        statistics = self.statistics.unpacked(state.statistics.to(device))
        return TrainingState(weights, slots, statistics, state.step)

    def gradient(
        self, state: TrainingState, batch: Batch, seed: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return g(w, alpha, beta) (n,), the new statistics r', and the L losses (L,).

        Args:
            state: Where the training is.
            batch: Images (B, channels, size, size) and labels (B,).
            seed: Of the dropout masks; the same seed draws the same masks.
        """
        with seeded(seed, self.network.alpha.device):
            return self.launch(self._gradient, state.weights, state.statistics, *batch)

    def _gradient(
        self, weights: Tensor, statistics: Tensor, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        self._load(weights, statistics)
        gradient = self.weights.gradients()
        a, b = self.network.a.detach(), self.network.b.detach()
        with self.training_mode():
            at_boundaries, logits = self.network(images, a, gradient_valve)

            def learn_locally(mixed: MixedAuxiliary) -> tuple[Tensor, list[Tensor | None]]:
                leaves = [at_boundaries[i].detach().requires_grad_() for i in mixed.boundaries]
                logits = self.local_logits(mixed, leaves, a, b, gradient_valve)
                local = self.local_losses(mixed, logits, labels, b)
                local.sum().backward()
                return local.detach(), [leaf.grad for leaf in leaves]

            with self.workers() as (_, apply):
                local, to_features = zip(*apply(learn_locally, self.network.mixed), strict=True)
            for features, to_one in zip(at_boundaries, itertools.chain(*to_features), strict=True):
                if features.requires_grad:  # else all below is frozen
                    features.register_hook(functools.partial(torch.add, to_one))
            final = self.criterion(logits, labels)
            final.backward()
        losses = torch.cat([*local, final.detach()[None]])
        return gradient, self.statistics.vector.clone(), losses

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
        return self.launch(self._validation, state.weights, state.statistics, *batch)

    def _validation(
        self, weights: Tensor, statistics: Tensor, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self._load(weights, statistics)
        to_weights = self.weights.gradients()
        to_statistics = torch.zeros_like(statistics)
        into = self.statistics.named(to_statistics)
        forwards: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
        for name, norm in self._backbone_norms():
            leaves = []
            for which in ("running_mean", "running_var"):
                leaves.append(getattr(norm, which).detach().requires_grad_())
                leaves[-1].grad = into[f"{name}.{which}"]
            forwards[norm] = _evaluating_norm(norm, *leaves)
        self.network.eval()
        loss, right = torch.zeros_like(to_weights[0]), torch.zeros_like(labels[0])
        with replaced_forwards(forwards):
            # Piece by piece, since samples do not depend on each other here
            piece = VALIDATION_PIECE if images.device.type == "cpu" else len(images)
            for some_images, some_labels in zip(
                images.split(piece), labels.split(piece), strict=True
            ):
                logits = self.network.backbone(lay_out(some_images))
                part = self.criterion(logits, some_labels) * (len(some_labels) / len(labels))
                part.backward()
                loss = loss + part.detach()
                right += (logits.detach().argmax(1) == some_labels).sum()
        accuracy = right.double() / len(labels)
        return loss, accuracy, to_weights, to_statistics

    def pull_back(
        self,
        state: TrainingState,
        gradient: Tensor,
        batch: Batch,
        lr: float,
        seed: int,
        after: PulledBack,
        *,
        first: bool = False,
    ) -> PulledBack:
        """Pull cotangents of a step's result back to what the step started from.

        The step is that of ``step(state, batch, lr, seed)``; ``gradient`` is the one it used.
        ``after`` holds the cotangents of (w', s', r') and what later steps gave alpha and beta, to
        which this step adds its part. Of the ``first`` step of all only that part matters, so the
        other cotangents are not computed, and are returned as they were.
        """
        to_weights, to_gradient, to_slots = self.optimizer.pull_back(
            state.weights, gradient, state.slots, lr, state.step, after.weights, after.slots
        )
        with seeded(seed, self.network.alpha.device):
            through, alpha, beta = self.launch(
                self._pull_back_gradient,
                *(state.weights, state.statistics, *batch),
                *(to_gradient, after.statistics, first),
            )
        alpha, beta = after.alpha + alpha, after.beta + beta
        if first:
            return replace(after, alpha=alpha, beta=beta)
        statistics = self._keep * after.statistics
        return PulledBack(to_weights.add_(through), to_slots, statistics, alpha, beta)

    def _pull_back_gradient(
        self,
        weights: Tensor,
        statistics: Tensor,
        images: Tensor,
        labels: Tensor,
        direction: Tensor,
        to_statistics: Tensor,
        first: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Differentiate <g(w, alpha, beta), direction> + <r'(w), to_statistics>.

        Returns:
            The derivatives with regard to w, alpha and beta; that to w is 0 if ``first``.
        """
        quiet_forward_ad()
        self._load(weights, statistics)
        to_weights = self.weights.gradients()
        tangents = self.weights.named(direction)
        a, b = (part.detach().requires_grad_() for part in (self.network.a, self.network.b))

        to_batch_statistics = self._to_batch_statistics(to_statistics)
        with (
            self.training_mode(),
            self._differentiable(not first),
            dual_modules(self.network, to_batch_statistics),
        ):
            with forward_ad.dual_level(), self.moving("backbone.", tangents):
                pairs = []

                def watched_valve(features: Tensor, scale: Tensor) -> Tensor:
                    value, tangent = forward_ad.unpack_dual(features)
                    if tangent is None:  # all below is frozen
                        tangent = torch.zeros_like(value)
                    pairs.append((value, tangent))
                    return tangent_valve(forward_ad.make_dual(*pairs[-1]), scale)

                _, logits = self.network(images, a, watched_valve)
                final = _slope(lambda values: self.criterion(values, labels), logits)

            prefixes = {mixed: f"auxiliaries.{k}." for k, mixed in enumerate(self.network.mixed)}

            def local_slope(mixed: MixedAuxiliary) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
                leaves = []
                for i in mixed.boundaries:
                    value, tangent = (part.detach() for part in pairs[i])
                    leaves.append((value.requires_grad_(not first), tangent.requires_grad_()))
                features = [forward_ad.make_dual(*pair) for pair in leaves]
                with self.moving(prefixes[mixed], tangents):
                    logits = self.local_logits(mixed, features, a, b, tangent_valve)

                def loss(values: Tensor) -> Tensor:
                    return self.local_losses(mixed, values, labels, b).sum()

                return _slope(loss, logits), leaves

            def pull_back_locally(
                pulled: tuple[Tensor, list[tuple[Tensor, Tensor]]],
            ) -> list[tuple[Tensor | None, Tensor | None]]:
                slope, leaves = pulled
                slope.backward()
                return [(value.grad, tangent.grad) for value, tangent in leaves]

            to_pairs: list[tuple[Tensor | None, Tensor | None]] = []
            with self.workers() as (number, apply):
                groups = self.network.mixed
                for some in (groups[i : i + number] for i in range(0, len(groups), number)):
                    with forward_ad.dual_level():  # torch has one for all threads
                        slopes = list(apply(local_slope, some))
                    to_pairs += itertools.chain(*apply(pull_back_locally, slopes))
                    slopes.clear()
            for pair, to_pair in zip(pairs, to_pairs, strict=True):
                for part, to_part in zip(pair, to_pair, strict=True):
                    if part.requires_grad and to_part is not None:
                        part.register_hook(functools.partial(torch.add, to_part))
            final.backward()
        network = self.network
        pulled = (network.a * cast(Tensor, a.grad)).sum() + (network.b * cast(Tensor, b.grad)).sum()
        alpha, beta = torch.autograd.grad(pulled, (network.alpha, network.beta))
        return to_weights, alpha, beta

    @contextmanager
    def workers(self) -> Iterator[tuple[int, Callable[..., Iterable[Any]]]]:
        """Yield on how many boundaries to work at a time, and a map that does so.

        Kernels of auxiliary networks are too small to be shared by CPU threads, so each boundary
        has one. Candidates that are not light networks may draw random numbers, whose order must
        not change; those, and a GPU, are served by a plain loop. `DualOperators` look at every call
        and hold Python's lock meanwhile, so threads that can do without have none.
        """
        threads = torch.get_num_threads()
        light = all({*mixed.light_choices} == {*mixed.aux_choices} for mixed in self.network.mixed)
        plain = self.network.backbone.activation in (nn.ReLU, nn.LeakyReLU)
        if threads == 1 or not light or self.network.alpha.device.type != "cpu":
            yield 1, map
            return
        try:
            with ThreadPoolExecutor(
                threads, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                yield (
                    threads,
                    lambda work, items: pool.map(work if plain else _with_operators(work), items),
                )
        finally:
            torch.set_num_threads(threads)

    def local_logits(
        self,
        mixed: MixedAuxiliary,
        features: Sequence[Tensor],
        a: Tensor,
        b: Tensor,
        valve: Valve,
    ) -> Tensor:
        """Return the logits that the local losses are taken of, (boundaries, B, classes).

        Args:
            mixed: The candidates at some boundaries.
            features: What crosses each of these.
            a: Of all boundaries, (L-1, 2).
            b: Likewise, (L-1, C).
            valve: What stands before the candidates.
        """
        logits: Tensor = mixed(mixed.behind(valve, features, a), mixed.own(b))
        return logits

    def local_losses(
        self, mixed: MixedAuxiliary, logits: Tensor, labels: Tensor, b: Tensor
    ) -> Tensor:
        """Return the local losses of what `local_logits` returned, (boundaries,).

        Args:
            mixed: The candidates at some boundaries.
            logits: Theirs.
            labels: Class numbers, (B,).
            b: Of all boundaries, (L-1, C).
        """
        return torch.stack([self.criterion(each, labels) for each in logits])

    @contextmanager
    def moving(self, prefix: str, tangents: Mapping[str, Tensor]) -> Iterator[None]:
        """Let the weights of the module ``prefix``, with a dot at its end, move along tangents.

        Args:
            prefix: Where the weights are used; one that is used elsewhere, too, stands still there.
            tangents: By the weights' names in `weights`.
        """
        places = [place for place in self._places if place.path.startswith(prefix)]
        weights = self.weights_within(prefix)
        # At the last step of all, only the backbone moves: that is what was judged
        still = (
            self.weights.vector.device.type == "cpu"  # a GPU would have to be waited for
            and self.launch is _by_calling  # a record has no branches
            and not prefix.startswith("backbone.")
            and not any(bool(tangents[name].any()) for name in weights)
        )
        duals = {
            name: forward_ad.make_dual(weight, tangents[name])
            for name, weight in weights.items()
            if not (still and _multiplies_matrices(weight))
        }
        for place in places:
            place.parameters[place.key] = duals.get(place.name, weights[place.name])
        try:
            yield
        finally:
            for place in places:
                place.parameters[place.key] = weights[place.name]

    def weights_within(self, prefix: str) -> dict[str, Tensor]:
        """Return the weights that are used in the module ``prefix``, by their names in `weights`.

        Args:
            prefix: The module's name, with a dot at its end.
        """
        return {
            place.name: self.weights.tensors[place.name]
            for place in self._places
            if place.path.startswith(prefix)
        }

    @contextmanager
    def _differentiable(self, weights_too: bool) -> Iterator[None]:
        """Record what depends on the weights, or leave that out."""
        for weight in self.weights.tensors.values():
            weight.requires_grad_(weights_too)
        try:
            yield
        finally:
            for weight in self.weights.tensors.values():
                weight.requires_grad_()

    def _to_batch_statistics(self, to_statistics: Tensor) -> dict[nn.Module, tuple[Tensor, Tensor]]:
        """Return the cotangents of the batch's mean and variance at each norm of the backbone.

        Validation uses the backbone's running statistics alone, so only those have cotangents.
        """
        cotangents = self.statistics.named(to_statistics)
        return {
            norm: (
                cast(float, norm.momentum) * cotangents[f"{name}.running_mean"],
                cast(float, norm.momentum) * cotangents[f"{name}.running_var"],
            )
            for name, norm in self._backbone_norms()
        }

    def _backbone_norms(self) -> list[tuple[str, BatchNorm]]:
        return [pair for pair in self._norms.items() if pair[0].startswith("backbone.")]

    @contextmanager
    def training_mode(self) -> Iterator[None]:
        """Training mode, as a step computes it."""
        self.network.train()
        with (
            replaced_forwards(normalising(self.network, self._norms.values(), batch_norm)),
            DualOperators(),
        ):
            yield


def _by_calling(work: Callable[..., Results], *inputs: Any) -> Results:
    return work(*inputs)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw random numbers of ``seed``, and leave the caller's as they are."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
