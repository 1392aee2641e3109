"""Small random problems, and their plain solution by `benchmarks.naive`.

What the library computes cleverly is compared with this: plain autograd, no valves, no dual
numbers, no recomputation, one graph from the first step to the validation loss.
"""

from __future__ import annotations

import copy
import itertools
import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.naive import NaiveNetwork, meta_loss, relaxed_losses, relaxed_objective, train
from sedona_nni.data.batches import Batch
from sedona_nni.models import Backbone, BackboneContext, FeatureShape, Layer
from sedona_nni.searches.sedona.inner_step import Adam, InnerProblem, Sgd, TrainingState
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.teachers.losses import LabelSmoothing

NUM_CLASSES = 3


@dataclass
class Case:
    """A small random problem in float64."""

    problem: InnerProblem
    start: TrainingState
    train_batches: list[Batch]
    validation_batch: Batch
    lrs: list[float]
    seed: int


def random_backbone(rng: random.Random, num_layers: int) -> Backbone:
    """Smooth layers with batch norm; some halve the map, some drop out."""
    context = BackboneContext(
        num_classes=NUM_CLASSES, image_size=8, width_multiplier=0.01, activation=nn.Softplus
    )
    channels, size, layers = 3, 8, []
    for i in range(num_layers):
        width = rng.choice([4, 8])
        parts: list[nn.Module] = []
        if size > 2 and rng.random() < 0.4:
            parts.append(nn.AvgPool2d(2))
            size //= 2
        parts += [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width, momentum=rng.choice([0.1, 0.3])),
            nn.Softplus(),
        ]
        if rng.random() < 0.3:
            parts.append(nn.Dropout(0.3))
        layers.append(Layer(f"layer {i}", nn.Sequential(*parts), FeatureShape(width, size)))
        channels = width
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels, NUM_CLASSES)
    )
    return Backbone("random", layers, head, context)


def random_case(number: int, *, inner_steps: int | None = None) -> Case:
    """Draw case ``number``: T, optimizer, L, auxiliary choices, alpha, beta, data and history."""
    rng = random.Random(number)
    torch.manual_seed(number)
    choices = rng.sample(["conv1", "conv2", "conv3", "conv4"], rng.choice([1, 2, 3]))
    network = RelaxedNetwork(random_backbone(rng, rng.choice([2, 3, 4])), choices).double()
    with torch.no_grad():
        network.alpha.normal_()
        network.beta.normal_()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.2)
    optimizer = rng.choice(
        [
            Sgd(momentum=0.0),
            Sgd(momentum=0.9, weight_decay=0.01),
            Adam(weight_decay=0.01, betas=(0.8, 0.9), eps=1e-2),
        ]
    )
    problem = InnerProblem(network, optimizer, LabelSmoothing(rng.choice([0.0, 0.1])))

    def batch() -> Batch:
        # In the layout of the relaxed network: dropout draws its masks in the order of memory
        images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
        images = images.contiguous(memory_format=torch.channels_last)
        return images, torch.randint(NUM_CLASSES, (5,))

    start = problem.state()
    for warm in range(2):  # so that the optimizer's state is not zero
        start, _ = problem.step(start, batch(), 0.01, seed=900 + warm)
    steps = inner_steps or rng.choice([1, 2, 3, 5])
    train_batches, validation_batch = [batch() for _ in range(steps)], batch()
    lr = rng.choice([0.02, 0.1])
    return Case(
        problem=problem,
        start=start,
        train_batches=train_batches,
        validation_batch=validation_batch,
        lrs=[lr * 0.9**step for step in range(steps)],
        seed=number,
    )


Named = dict[str, Tensor]


def naive_network(network: RelaxedNetwork) -> NaiveNetwork:
    """The same structure in its plain form, with weights of its own."""
    dtype = next(network.parameters()).dtype
    return NaiveNetwork(copy.deepcopy(network.backbone), network.aux_choices).to(dtype)


def _in_naive_names(network: RelaxedNetwork, tensors: Named, own_names: list[str]) -> Named:
    """Tensors of the relaxed network by their names in `naive_network`, ``own_names``.

    Of each candidate, both networks have the same tensors in the same order.
    """
    named = {name: value for name, value in tensors.items() if name.startswith("backbone.")}
    for k, mixed in enumerate(network.mixed):
        prefix = f"auxiliaries.{k}."
        inside = {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        for i, (c, choice) in itertools.product(mixed.boundaries, enumerate(network.aux_choices)):
            own = [name for name in own_names if name.startswith(f"auxiliaries.{i}.{c}.")]
            named |= zip(own, mixed.of_candidate(inside, i, choice).values(), strict=True)
    return named


def named_weights(problem: InnerProblem, weights: Tensor) -> Named:
    """A vector of weights by the names that they have in `naive_network`."""
    names = [name for name, _ in naive_network(problem.network).named_parameters()]
    return _in_naive_names(problem.network, problem.weights.named(weights), names)


def named_statistics(problem: InnerProblem, statistics: Tensor) -> Named:
    """A vector of running statistics likewise."""
    names = [
        name for name, _ in naive_network(problem.network).named_buffers() if "running" in name
    ]
    return _in_naive_names(problem.network, problem.statistics.named(statistics), names)


def leaves(named: Named) -> Named:
    """Copies to differentiate with regard to."""
    return {name: value.detach().clone().requires_grad_() for name, value in named.items()}


def formula_gradient(
    case: Case, weights: Named, alpha: Tensor, beta: Tensor
) -> tuple[Named, Named]:
    """g: layer i from G_i = a_loc l_i + a_up G_{i+1}, auxiliary networks from l_i; and r'."""
    network = naive_network(case.problem.network)
    statistics = named_statistics(case.problem, case.start.statistics)
    torch.manual_seed(case.seed)
    local, final, new_statistics = relaxed_losses(
        network,
        weights,
        statistics,
        beta,
        case.train_batches[0],
        case.problem.criterion,
    )
    gradient = _gradient_of(final, weights, ("backbone.head.", f"backbone.layers.{len(local)}."))
    for i, loss in enumerate(local):
        objective = relaxed_objective(alpha[i:], local[i:], final)  # G_i
        gradient |= _gradient_of(objective, weights, (f"backbone.layers.{i}.",))
        gradient |= _gradient_of(loss, weights, (f"auxiliaries.{i}.",))
    return gradient, new_statistics


def _gradient_of(objective: Tensor, weights: Named, prefixes: tuple[str, ...]) -> Named:
    mine = [name for name in weights if name.startswith(prefixes)]
    parts = torch.autograd.grad(objective, [weights[name] for name in mine], retain_graph=True)
    return dict(zip(mine, parts, strict=True))


def initially(case: Case) -> tuple[Named, Named, Named]:
    """The weights that the case starts from, the optimizer's slots, the running statistics."""
    problem = case.problem
    slots = [named_weights(problem, slot) for slot in case.start.slots]
    weights = leaves(named_weights(problem, case.start.weights))
    stacked = {name: torch.stack([slot[name] for slot in slots]) for name in weights}
    return weights, stacked, named_statistics(problem, case.start.statistics)


def unrolled_meta_loss(case: Case, alpha: Tensor, beta: Tensor) -> Tensor:
    """Run all T steps in one graph and return the validation loss at their end."""
    problem = case.problem
    return meta_loss(
        naive_network(problem.network),
        *initially(case),
        alpha,
        beta,
        case.train_batches,
        case.validation_batch,
        problem.criterion,
        problem.optimizer,
        lrs=case.lrs,
        seed=case.seed,
        step=case.start.step,
    )


class _ReleaseNetwork(NaiveNetwork):
    """Auxiliary networks see h / s, and their logits grow s-fold; s_i = 1 / (a_i^loc + 1e-5)."""

    scales: list[Tensor]

    def local_logits(self, boundary: int, features: Tensor, b: Tensor) -> Tensor:
        s = self.scales[boundary]
        return s * super().local_logits(boundary, features / s, b)

    def divisors(self, alpha: Tensor) -> Named:
        """The division takes the a_up away, auxiliary networks keep their a_loc."""
        a_loc = alpha.softmax(1)[:, 0]
        return {
            name: divisor / a_loc[int(name.split(".")[1])] if "auxiliaries" in name else divisor
            for name, divisor in super().divisors(alpha).items()
        }


def unrolled_last_loss(case: Case, alpha: Tensor, beta: Tensor) -> Tensor:
    """Run T-1 steps in one graph and return R_0 on the T-th batch, all as the release does."""
    problem = case.problem
    relaxed = problem.network
    network = _ReleaseNetwork(copy.deepcopy(relaxed.backbone), relaxed.aux_choices).double()
    network.scales = [1 / (a_loc.detach() + 1e-5) for a_loc in alpha.softmax(1)[:, 0]]
    weights, slots, statistics = initially(case)
    *inner_batches, last = case.train_batches
    weights, _, statistics = train(
        network,
        weights,
        slots,
        statistics,
        alpha,
        beta,
        inner_batches,
        problem.criterion,
        problem.optimizer,
        lrs=case.lrs,
        seed=case.seed,
        step=case.start.step,
    )
    torch.manual_seed(case.seed + len(inner_batches))
    local, final, _ = relaxed_losses(network, weights, statistics, beta, last, problem.criterion)
    return relaxed_objective(alpha, local, final)
