"""The relaxed network's training, written as the formulas read and differentiated by unrolling.

Everything here is plain autograd: no valves, no dual numbers, no recomputation. One graph from the
first step to the validation loss. What the library computes cleverly is compared with this.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sedona_nni.backbones import Backbone, BackboneContext, FeatureShape, Layer
from sedona_nni.batches import Batch
from sedona_nni.inner_step import Adam, InnerProblem, Sgd, TrainingState
from sedona_nni.losses import LabelSmoothing
from sedona_nni.relaxation import RelaxedNetwork

NUM_CLASSES = 3


@dataclass
class Case:
    """A small random problem in float64."""

    problem: InnerProblem
    start: TrainingState
    train_batches: list[Batch]
    validation_batch: Batch
    lr: float
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
        images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
        return images, torch.randint(NUM_CLASSES, (5,))

    start = problem.state()
    for warm in range(2):  # so that the optimizer's state is not zero
        start, _ = problem.step(start, batch(), 0.01, seed=900 + warm)
    steps = inner_steps or rng.choice([1, 2, 3, 5])
    return Case(
        problem=problem,
        start=start,
        train_batches=[batch() for _ in range(steps)],
        validation_batch=batch(),
        lr=rng.choice([0.02, 0.1]),
        seed=number,
    )


Named = dict[str, Tensor]


def _names(problem: InnerProblem) -> tuple[list[str], list[str]]:
    return problem._weights.names, problem._statistics.names


def relaxed_gradient(
    network: RelaxedNetwork,
    weights: Named,
    statistics: Named,
    alpha: Tensor,
    beta: Tensor,
    batch: Batch,
    criterion: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Named, Named]:
    """g: layer i from G_i = a_loc l_i + a_up G_{i+1}, auxiliary networks from l_i; and r'."""
    local, final, new_statistics = _losses(network, weights, statistics, beta, batch, criterion)
    a = alpha.softmax(1)
    objectives = [final]  # G_{L-1}, then downwards
    for i in reversed(range(len(local))):
        objectives.insert(0, a[i, 0] * local[i] + a[i, 1] * objectives[0])
    gradient = {}
    for prefixes, objective in [
        (("backbone.head.", f"backbone.layers.{len(local)}."), final),
        *(((f"backbone.layers.{i}.",), objectives[i]) for i in range(len(local))),
        *(((f"auxiliaries.{i}.",), local[i]) for i in range(len(local))),
    ]:
        gradient |= _gradient_of(objective, weights, prefixes)
    return gradient, new_statistics


def release_gradient(
    network: RelaxedNetwork,
    weights: Named,
    statistics: Named,
    alpha: Tensor,
    beta: Tensor,
    batch: Batch,
    criterion: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Named, Tensor]:
    """The release's gradients, by its division: dR_0/dw_i over prod_{k<i} a_k^up; and R_0."""
    a = alpha.softmax(1)
    scales = [1 / (a_loc.detach() + 1e-5) for a_loc in a[:, 0]]
    local, total, _ = _losses(network, weights, statistics, beta, batch, criterion, scales)
    for (a_loc, a_up), loss in reversed(list(zip(a, local, strict=True))):
        total = a_loc * loss + a_up * total
    gradient, above = {}, torch.ones((), dtype=a.dtype)
    for i in range(len(local) + 1):
        prefixes = (f"backbone.layers.{i}.", f"auxiliaries.{i}.")
        if i == len(local):
            prefixes = (f"backbone.layers.{i}.", "backbone.head.")
        for name, value in _gradient_of(total, weights, prefixes).items():
            gradient[name] = value / above
        if i < len(local):
            above = above * a[i, 1]
    return gradient, total


def _gradient_of(objective: Tensor, weights: Named, prefixes: tuple[str, ...]) -> Named:
    mine = [name for name in weights if name.startswith(prefixes)]
    parts = torch.autograd.grad(
        objective, [weights[name] for name in mine], create_graph=True, materialize_grads=True
    )
    return dict(zip(mine, parts, strict=True))


def _losses(
    network: RelaxedNetwork,
    weights: Named,
    statistics: Named,
    beta: Tensor,
    batch: Batch,
    criterion: Callable[[Tensor, Tensor], Tensor],
    scales: list[Tensor] | None = None,
) -> tuple[list[Tensor], Tensor, Named]:
    """The local losses, the final one, and the new running statistics."""
    images, labels = batch
    b = beta.softmax(1)
    new_statistics = dict(statistics)

    def run(module: nn.Module, prefix: str, features: Tensor) -> Tensor:
        inside = {
            name.removeprefix(prefix): tensor
            for name, tensor in weights.items()
            if name.startswith(prefix)
        }
        handles = []
        for inner, norm in module.named_modules():
            if isinstance(norm, nn.BatchNorm2d):

                def watch(norm: nn.Module, inputs: tuple[Tensor], name: str = inner) -> None:
                    var, mean = torch.var_mean(inputs[0], (0, 2, 3))
                    for which, now in (("running_mean", mean), ("running_var", var)):
                        key = f"{prefix}{name}.{which}"
                        old = statistics[key]
                        new_statistics[key] = (1 - norm.momentum) * old + norm.momentum * now

                handles.append(norm.register_forward_pre_hook(watch))
        scratch = {
            f"{name}.{which}": getattr(norm, which).detach().clone()
            for name, norm in module.named_modules()
            if isinstance(norm, nn.BatchNorm2d)
            for which in ("running_mean", "running_var")
        }
        result = functional_call(module, {**inside, **scratch}, (features,))
        for handle in handles:
            handle.remove()
        return result

    network.train()
    backbone, features, at_boundary = network.backbone, images, []
    for i, layer in enumerate(backbone.layers):
        features = run(layer, f"backbone.layers.{i}.", features)
        at_boundary.append(features)
    final = criterion(run(backbone.head, "backbone.head.", features), labels)
    local = []
    for i, mixed in enumerate(network.auxiliaries):
        scale = scales[i] if scales else 1.0
        logits = 0
        for c, candidate in enumerate(mixed.networks):
            prefix = f"auxiliaries.{i}.networks.{c}."
            logits = logits + scale * b[i, c] * run(candidate, prefix, at_boundary[i] / scale)
        local.append(criterion(logits, labels))
    return local, final, new_statistics


def unrolled_meta_loss(case: Case, alpha: Tensor, beta: Tensor, *, graph: bool = True) -> Tensor:
    """Run all T steps in one graph and return the validation loss at their end."""
    problem, network = case.problem, case.problem.network
    names, statistic_names = _names(problem)
    weights = {
        name: value.detach().requires_grad_()
        for name, value in zip(names, problem._weights.split(case.start.weights), strict=True)
    }
    slots = [
        dict(zip(names, problem._weights.split(slot), strict=True)) for slot in case.start.slots
    ]
    statistics = dict(
        zip(statistic_names, problem._statistics.split(case.start.statistics), strict=True)
    )
    for t, batch in enumerate(case.train_batches):
        torch.manual_seed(case.seed + t)
        gradient, statistics = relaxed_gradient(
            network, weights, statistics, alpha, beta, batch, problem.criterion
        )
        updated = {}
        new_slots: list[Named] = [{} for _ in slots]
        for name in names:
            stacked = torch.stack([slot[name] for slot in slots])
            updated[name], after = problem.optimizer.update(
                weights[name], gradient[name], stacked, case.lr, case.start.step + t
            )
            for slot, value in zip(new_slots, after, strict=True):
                slot[name] = value
        weights, slots = updated, new_slots
        if not graph:
            weights = {k: v.detach().requires_grad_() for k, v in weights.items()}
            slots = [{k: v.detach() for k, v in slot.items()} for slot in slots]
            statistics = {k: v.detach() for k, v in statistics.items()}
    images, labels = case.validation_batch
    return problem.criterion(_evaluate(network.backbone, weights, statistics, images), labels)


def _evaluate(backbone: Backbone, weights: Named, statistics: Named, images: Tensor) -> Tensor:
    """The backbone in evaluation mode, its batch norms written out."""
    backbone.eval()
    named_modules = dict(backbone.named_modules())

    def normalise(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            def column(tensor: Tensor) -> Tensor:
                return tensor[None, :, None, None]

            mean = column(statistics[f"backbone.{name}.running_mean"])
            var = column(statistics[f"backbone.{name}.running_var"])
            scale, shift = (column(weights[f"backbone.{name}.{k}"]) for k in ("weight", "bias"))
            return (inputs[0] - mean) / torch.sqrt(var + module.eps) * scale + shift

        return hook

    handles = [
        module.register_forward_hook(normalise(name))
        for name, module in named_modules.items()
        if isinstance(module, nn.BatchNorm2d)
    ]
    inside = {
        name.removeprefix("backbone."): tensor
        for name, tensor in weights.items()
        if name.startswith("backbone.")
    }
    logits = functional_call(backbone, inside, (images,))
    for handle in handles:
        handle.remove()
    return logits
