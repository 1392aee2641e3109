"""What training takes of memory, block by block, in bytes.

Notation (L layers, K blocks; boundary i is the place after layer i):
    W, G, S    of a block, its auxiliary network included: weights and buffers; gradients, as many
               as weights; the optimizer's state, and moving averages if there are any
    A          activations: what its forward pass keeps for its backward pass
    T          what is alive beside all that at the peak of a step: gradients of activations, and
               what is needed in passing

Counted exactly, for a batch of the given size, in training mode:

- A is the memory that autograd saves, each storage once, and the block's own input and output,
  which live as long. Weights are W and not A; images are the batch's and not A. A tensor that two
  neighbouring layers save, the output of one and the input of the next, is counted once.
- A layer that begins a block saves less than within one, if it begins with what has no weights, as
  a pool: its input asks for no gradient.
- A batch that is accumulated in parts has the activations of one part at a time, but the block's
  input and output whole. Layers that are checkpointed keep their inputs alone; what they compute
  again is in T.
- With mixed precision A has what is kept in 16 bits, weights cast to 16 bits included.

So the memory of a block of the layers i+1..j with auxiliary network c is a sum,

    s_i + (a_{i+1} + ... + a_j) + d_jc,

a_j what layer j adds, its output included; s_i what a block needs that begins behind boundary i,
its input and what its first layer saves differently; d_jc the auxiliary network and, if nothing
saves it, the layer's output. `MemoryOfParts` has all of them. T is no such sum, see `peak_of_step`.

A process that holds all blocks, trained one after the other, has at its peak

    sum_k (W_k + S_k) + max_k (G_k + A_k + T_k),

one that holds block k has W_k + S_k + G_k + A_k + T_k. While it computes, features travel, F_k: the
next batch's on their way to it, and its own of up to two batches that have not arrived above.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from sedona_nni.decouplings.compute import Compute, by_place, provenance_of
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_context, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.decouplings.dry_run import (
    ComputedAgain,
    LiveMemory,
    as_amp,
    dry_features,
    dry_run,
    skeleton,
    storages_saved_by,
)
from sedona_nni.errors import InputError
from sedona_nni.models import Backbone, FeatureShape
from sedona_nni.models.form import form_of
from sedona_nni.teachers import NO_AUXILIARY
from sedona_nni.teachers.auxiliary import (
    Around,
    AuxiliaryContext,
    AuxiliaryNetwork,
    Seen,
    build_auxiliary,
    check_auxiliary,
    places,
    taught,
)
from sedona_nni.teachers.losses import LabelSmoothing

__all__ = [
    "BATCHES_UNDER_WAY",
    "Memory",
    "MemoryOfParts",
    "StepForm",
    "StepPeaks",
    "compute_in_memory",
    "describe_memory",
    "memory_of_parts",
    "peaks_of_step",
]


BATCHES_UNDER_WAY = 2
"""How many batches of features a process has sent, at most, that have not arrived."""


@dataclass(frozen=True)
class StepForm:
    """What of a training, beside the network, decides how much memory a step takes.

    Attributes:
        batch_size: B, images per step.
        optimizer: Makes the optimizer of some weights.
        accumulate: In how many parts a batch is taken, one after the other.
        checkpointed: Whether layers keep only their inputs, and are computed again.
        transports: Whether a block's loss counts by how much its layers move what they are given.
        averaged: Whether there are moving averages of weights and statistics.
        amp: Mixed precision: ``no``, ``fp16`` or ``bf16``.
        criterion: Mean loss of logits and labels.
        on_gpu: Whether optimizers that are not fused change all weights at a time, as torch lets
            them on a GPU.
        provenance: The same in words, for documents.
    """

    batch_size: int
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    accumulate: int = 1
    checkpointed: bool = False
    transports: bool = False
    averaged: bool = False
    amp: str = "no"
    criterion: nn.Module = field(default_factory=LabelSmoothing)
    on_gpu: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def part_size(self) -> int:
        """Images that go forward and backward at a time."""
        return math.ceil(self.batch_size / self.accumulate)


@dataclass(frozen=True)
class Memory:
    """Bytes of a part of a network, or of a block; see the top of this file.

    Attributes:
        weights: W, buffers included.
        gradients: G.
        optimizer: S, moving averages included.
        activations: A.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            *(getattr(self, each.name) + getattr(other, each.name) for each in fields(self))
        )

    @property
    def held(self) -> int:
        """W + S, what there is all the time."""
        return self.weights + self.optimizer

    @property
    def total(self) -> int:
        """W + G + S + A."""
        return self.held + self.gradients + self.activations


@dataclass(frozen=True)
class MemoryOfParts:
    """What the parts of a backbone add to the memory of a block.

    Attributes:
        layers: Of each layer, L of them; the last includes the head.
        starts: Activations that a block has more, or fewer, because it begins behind each of the
            L-1 boundaries.
        auxiliary: Of each auxiliary network by name, at each of the L-1 boundaries, in each of its
            `sedona_nni.teachers.auxiliary.places`; also of `NO_AUXILIARY`, as a block's output is
            kept even where nothing saves it.
    """

    layers: list[Memory]
    starts: list[int]
    auxiliary: list[dict[str, list[Memory]]]

    def blocks(self, decoupling: Decoupling) -> list[Memory]:
        """Return the memory of each block, K of them."""
        blocks = decoupling.blocks(len(self.layers))
        ends = [
            *(
                _of_first(self.auxiliary[block.stop - 1][name], block.start)
                for block, name in zip(blocks, decoupling.aux, strict=False)
            ),
            Memory(),
        ]
        return [
            sum(
                (self.layers[layer] for layer in block),
                end + Memory(activations=self.starts[block.start - 1] if block.start else 0),
            )
            for block, end in zip(blocks, ends, strict=True)
        ]


def _of_first(amounts: Sequence[Memory], first: int) -> Memory:
    return amounts[first] if len(amounts) > 1 else amounts[0]


def memory_of_parts(backbone: Backbone, aux_names: Iterable[str], form: StepForm) -> MemoryOfParts:
    """Count what each layer, and each of some auxiliary networks at every boundary, takes.

    Exact, see the top of this file, where layers have weights. A layer without any that begins a
    block makes the next one begin it, too; this is followed up to the end of the network, but not
    into an auxiliary network. What has the same form and input shape is counted once. Auxiliary
    networks are left out where they cannot stand. Build the backbone under
    ``torch.device("meta")``.

    Raises:
        InputError: if a name is unknown.
    """
    names = [name for name in aux_names if name != NO_AUXILIARY]
    for name in names:
        check_auxiliary(name)
    labels = torch.empty(form.part_size, dtype=torch.long, device="meta")
    with dry_run():
        known: dict[tuple[object, ...], _Kept] = {}  # deep networks repeat themselves

        def kept(
            module: nn.Module, features: Tensor, *, first: bool, around: Around | None = None
        ) -> _Kept:
            key = (form_of(module), features.shape, features.dtype, first, around)
            if key not in known:
                with as_amp(form.amp):
                    known[key] = _kept(module, features, labels, form, first=first, around=around)
            return known[key]

        @functools.cache
        def held(alike: Hashable) -> Memory:
            return _held(by_form[alike], form)[0]

        images = backbone.images
        features = [dry_features(images, form.part_size)]
        modules = [skeleton(part) for part in (*backbone.layers, backbone.head)]
        by_form = {form_of(module): module for module in modules}
        inner = []
        for index, module in enumerate(modules):
            found = kept(module, features[-1], first=index == 0)
            features.append(found.result.detach())
            again = form.checkpointed and index < len(backbone.layers)
            if again:
                found = replace(found, own=found.moved, input=True, output=False)
            inner.append(found)
        *outputs, _ = features[1:]
        sizes = [output.untyped_storage().nbytes() for output in outputs]
        whole = [size * form.batch_size // form.part_size for size in sizes]

        starts = []
        for begin in range(1, len(backbone.layers)):
            at, beginning = whole[begin - 1], features[begin]
            for module, within in zip(modules[begin:], inner[begin:], strict=True):
                first = kept(module, beginning, first=True)
                at += 0 if form.checkpointed else first.own - within.own
                if first.result.requires_grad:
                    break
                beginning = first.result
            starts.append(at)

        # Within a block a layer's output lives on if the layer itself or the next one saves it
        saved = [
            size if below.output or above.input else 0
            for size, (below, above) in zip(sizes, itertools.pairwise(inner), strict=True)
        ]
        saved[-1] = whole[-1]
        activations = [part.own + size for part, size in zip(inner, [*saved, 0], strict=True)]
        parts = [
            held(form_of(module)) + Memory(activations=amount)
            for module, amount in zip(modules, activations, strict=True)
        ]
        auxiliary = []
        counted: dict[tuple[str, AuxiliaryContext], Memory] = {}

        def taken(name: str, context: AuxiliaryContext, output: Tensor) -> Memory:
            if (name, context) not in counted:  # places of equal shape cost the same
                with torch.device("meta"):
                    network = build_auxiliary(name, context)
                own = kept(skeleton(network), output, first=False, around=context.around).own
                counted[name, context] = _held(network, form)[0] + Memory(activations=own)
            return counted[name, context]

        for boundary, output in enumerate(outputs[:-1]):
            lives_on = Memory(activations=whole[boundary] - saved[boundary])
            here = {NO_AUXILIARY: [lives_on]}
            for name in names:
                with contextlib.suppress(InputError):  # it cannot stand here
                    contexts = places(backbone, boundary, name)
                    here[name] = [taken(name, each, output) + lives_on for each in contexts]
            auxiliary.append(here)
    *layers, last, head = parts
    return MemoryOfParts([*layers, last + head], starts, auxiliary)


@dataclass(frozen=True)
class _Kept:
    """What a forward pass keeps: of its own, ``moved`` of it for what `Block.transported` counts,
    and whether its input and its output."""

    result: Tensor
    own: int
    moved: int
    input: bool
    output: bool


def _kept(
    module: nn.Module,
    features: Tensor,
    labels: Tensor,
    form: StepForm,
    *,
    first: bool,
    around: Around | None,
) -> _Kept:
    features = features.detach().requires_grad_(not first)
    seen = None if around is None else _dry_seen(around, form.part_size)

    def run() -> Tensor:
        if isinstance(module, AuxiliaryNetwork):
            return taught(module, features, labels, form.criterion, seen)[0]
        out: Tensor = module(features)
        return form.criterion(out, labels) if out.dim() == 2 else out

    result, saved = storages_saved_by(run)
    # What is shown is there anyway
    for tensor in (*module.parameters(), *module.buffers(), labels, *(seen or ())):
        saved.pop(id(tensor.untyped_storage()), None)
    is_moved = form.transports and result.shape == features.shape
    moved = result.nbytes if is_moved else 0
    return _Kept(
        input=saved.pop(id(features.untyped_storage()), None) is not None,
        output=saved.pop(id(result.untyped_storage()), None) is not None,
        own=sum(storage.nbytes() for storage in saved.values()) + moved,
        moved=moved,
        result=result,
    )


def _dry_seen(around: Around, batch_size: int) -> Seen:
    return Seen(*(dry_features(shape, batch_size) for shape in (around.images, around.inputs)))


def _held(module: nn.Module, form: StepForm) -> tuple[Memory, int]:
    """Return W, G and S of a module, and the bytes that an update takes in passing."""
    weights = _bytes([*module.parameters(), *module.buffers()])
    trained = [p for p in module.parameters() if p.requires_grad]
    gradients = _bytes(trained)
    state, passing = _optimize(module, form) if trained else (0, 0)
    return Memory(weights, gradients, state + (weights if form.averaged else 0)), passing


def _optimize(module: nn.Module, form: StepForm) -> tuple[int, int]:
    """Return the bytes of the optimizer's state, and those that an update takes in passing."""
    parameters = [*skeleton(module).parameters()]
    optimizer = form.optimizer(parameters)
    for group in optimizer.param_groups:
        fused = bool(group["fused"])
        group["fused"] = False  # which the meta device has not
        group["foreach"] = form.on_gpu
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    state = [
        value
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, Tensor)
    ]
    if fused:
        return _bytes(state), 0
    with LiveMemory() as live:
        live.follow([*parameters, *(p.grad for p in parameters if p.grad is not None), *state])
        before = live.now
        optimizer.step()
    return _bytes(state), live.peak - before


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def compute_in_memory(backbone: Backbone, aux_names: Iterable[str], form: StepForm) -> Compute:
    """Return W + G + S + A of layers and auxiliary networks, to bound or balance blocks by.

    Raises:
        InputError: if a name is unknown.

    Examples:
        >>> import torch
        >>> from sedona_nni import (
        ...     TrainSettings, balanced_decoupling, build_backbone, compute_in_memory, step_form,
        ... )
        >>> with torch.device("meta"):
        ...     backbone = build_backbone("vgg11", num_classes=10)
        >>> memory = compute_in_memory(backbone, ["conv1"], step_form(TrainSettings()))
        >>> memory.unit, balanced_decoupling(memory, 2, "conv1").cuts
        ('bytes', [2])
    """
    parts = memory_of_parts(backbone, aux_names, form)
    return Compute(
        backbone=backbone.name,
        unit="bytes",
        layers=[layer.total for layer in parts.layers],
        starts=parts.starts,
        **by_place(
            [
                {name: [memory.total for memory in all_] for name, all_ in here.items()}
                for here in parts.auxiliary
            ]
        ),
        provenance={**provenance_of(backbone), **form.provenance},
    )


@dataclass(frozen=True)
class StepPeaks:
    """What a step of a decoupled network takes at its peak, in bytes.

    Attributes:
        held: W + S of each block, K of them.
        passing: Of each block, the most that is alive in its step beside that and the images:
            gradients, activations, and what is needed in passing.
        travelling: F of each block, where it has a process of its own.
    """

    held: list[int]
    passing: list[int]
    travelling: list[int]

    @property
    def one_process(self) -> int:
        """Of a process that holds all blocks and trains one after the other."""
        return sum(self.held) + max(self.passing)

    @property
    def ranks(self) -> list[int]:
        """Of each of K processes that hold one block, by its computing alone."""
        return [held + passing for held, passing in zip(self.held, self.passing, strict=True)]

    @property
    def busy_ranks(self) -> list[int]:
        """Of each of K processes that hold one block, with all that may travel meanwhile."""
        return [own + more for own, more in zip(self.ranks, self.travelling, strict=True)]


def peaks_of_step(network: DecoupledNetwork, images: FeatureShape, form: StepForm) -> StepPeaks:
    """Find what a step takes at its peak by a dry run of forward and backward pass and update.

    Each block learns from its own loss alone, as in greedy learning; one without a classifier from
    any gradient of its output. Other methods may hold more, and sequential learning holds the
    optimizer's state of one block at a time. What kernels take for themselves is mostly not seen:
    it is little, but on the CPU 1 KiB for each weight of depthwise convolutions of 5x5 and more.

    Args:
        network: Made under ``torch.device("meta")``.
        images: Their shape.
        form: Of the step.

    Examples:
        >>> import torch
        >>> from sedona_nni import (
        ...     FeatureShape, TrainSettings, build_backbone, build_decoupled, decoupling_by_rule,
        ...     peaks_of_step, step_form,
        ... )
        >>> with torch.device("meta"):
        ...     backbone = build_backbone("vgg11", num_classes=10)
        ...     uniform = decoupling_by_rule("uniform:2:conv1", "vgg11", 8)
        ...     network = build_decoupled(backbone, uniform)
        >>> form = step_form(TrainSettings(batch_size=64))
        >>> peaks = peaks_of_step(network, FeatureShape(3, 32), form)
        >>> [round(peak / 2**20) for peak in peaks.ranks], round(peaks.one_process / 2**20)
        ([27, 24], 40)
    """
    held, passing, travelling = [], [], []
    labels = torch.empty(form.batch_size, dtype=torch.long, device="meta")
    with dry_run():
        whole_images = features = below = lent = dry_features(images, form.batch_size)
        for index, original in enumerate(network.blocks):
            own, updating = _held(original, form)
            block, layer = skeleton(original), None  # the layer of the block below that it shares
            if block.kind == "overlap":
                layer = skeleton(network.blocks[index - 1].layers[-1])
            if form.checkpointed:
                block.checkpointed = True
                again = (ComputedAgain(layer, form.amp) for layer in block.layers)
                block.layers = nn.Sequential(*again)
            weights = [*block.parameters(), *block.buffers()]
            # Whoever looks at nothing else is shown nothing else
            pixels = whole_images if block.looks else features
            under = below if block.kind == "previous" else features
            given = features if layer is None else lent
            others = {id(each): each for each in (pixels, under, given)}
            shown = [each for each in others.values() if each is not features]
            if layer is not None:  # it has gradients of the block below
                weights += [*layer.parameters(), *layer.buffers()]
                for parameter in layer.parameters():
                    if parameter.requires_grad:
                        parameter.grad = torch.empty_like(parameter)
            outputs, lent_parts = [], []
            with LiveMemory(on_cpu=not form.on_gpu) as live:
                # Else views of them would count
                live.follow([*weights, *_gradients(layer), labels, features, *shown])
                whole = (features, labels, pixels, under, given)
                parts = zip(*(each.chunk(form.accumulate) for each in whole), strict=True)
                for part, targets, images_of_part, part_under, part_given in parts:
                    with as_amp(form.amp):
                        output, last, moved = block.through(
                            part,
                            block.beside(images_of_part, part_under),
                            shared=None if layer is None else (layer, part_given),
                            transports=form.transports,
                        )
                        if network.lends(index):
                            lent_parts.append(last.detach())
                        del last
                        if block.classifier is None:
                            loss = output
                        else:
                            seen = Seen(images_of_part, part) if block.looks else None
                            loss, _ = block.local_loss(output, targets, form.criterion, seen)
                            if moved is not None:
                                loss = loss + moved
                    loss.backward(torch.ones_like(loss))
                    outputs.append(output.detach())
            output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
            batch = _bytes([labels, *shown] if index else [labels, features])
            update = own.gradients + _bytes([labels, features, output, *shown]) + updating
            below = features
            lent = torch.cat(lent_parts) if lent_parts else features
            held.append(own.held)
            passing.append(max(live.peak - _bytes(weights), update) - batch)
            coming = _bytes([features]) if index else 0
            is_last = index == len(network.blocks) - 1
            travelling.append(coming + (0 if is_last else BATCHES_UNDER_WAY * _bytes([output])))
            features = output
    return StepPeaks(held, passing, travelling)


def _gradients(layer: nn.Module | None) -> list[Tensor]:
    parameters = () if layer is None else layer.parameters()
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _beginning(
    backbone: Backbone, decoupling: Decoupling, parts: MemoryOfParts, form: StepForm
) -> list[Memory]:
    """Return what each block takes more because of the kind of the cut below it, K of them."""
    found = [Memory()]
    labels = torch.empty(form.part_size, dtype=torch.long, device="meta")
    blocks = decoupling.blocks(backbone.num_layers)
    for kind, cut, below in zip(decoupling.kinds, decoupling.cuts, blocks, strict=False):
        with torch.device("meta"):
            context = build_context(backbone, kind, cut, below.start)
        if context is not None:
            with dry_run(), as_amp(form.amp):
                encoder, features = skeleton(context), dry_features(context.source, form.part_size)
                kept = _kept(encoder, features, labels, form, first=True, around=None)
            own = kept.own + kept.result.nbytes  # what it is added to is there, too
            found.append(_held(context, form)[0] + Memory(activations=own))
        else:
            again = parts.layers[cut].activations if kind == "overlap" else 0
            found.append(Memory(activations=again))
    return found


def describe_memory(backbone: Backbone, decoupling: Decoupling, form: StepForm) -> dict[str, Any]:
    """Return what the blocks of a decoupling take in training, in bytes; fit for JSON.

    Args:
        backbone: Made under ``torch.device("meta")``.
        decoupling: Where it is cut.
        form: Of a step.

    Returns:
        ``blocks``, each with weights, gradients, optimizer, activations, their total, and the peak
        of a process that holds the block alone, with what travels to and from it meanwhile;
        ``boundaries``, each with the same but the peak of a block of all layers below, without
        auxiliary network;
        ``batch_size``; ``one_process`` and ``largest_rank``, the peaks of a process that holds all
        and of the largest one that holds one.

    Raises:
        InputError: if the decoupling does not fit the backbone.
    """
    parts = memory_of_parts(backbone, set(decoupling.aux), form)
    more = _beginning(backbone, decoupling, parts, form)
    blocks = [own + kind for own, kind in zip(parts.blocks(decoupling), more, strict=True)]
    below = itertools.accumulate(parts.layers[:-1])
    cut_off = [
        layers + end[NO_AUXILIARY][0] for layers, end in zip(below, parts.auxiliary, strict=True)
    ]
    with torch.device("meta"):
        network = build_decoupled(backbone, decoupling)
    images = backbone.images
    peaks = peaks_of_step(network, images, form)
    return {
        "batch_size": form.batch_size,
        "one_process": peaks.one_process,
        "largest_rank": max(peaks.busy_ranks),
        "blocks": [
            {**asdict(block), "total": block.total, "peak": peak}
            for block, peak in zip(blocks, peaks.busy_ranks, strict=True)
        ],
        "boundaries": [{**asdict(block), "total": block.total} for block in cut_off],
    }
