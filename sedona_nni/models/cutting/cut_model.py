"""A model cut into layers: its own modules, run piece by piece.

    layer_0 ... layer_{L-1}, head    each maps one tensor to one; composed they are the model

A piece holds the model's own modules and weights, the same objects under their own names. So hooks,
modes, buffers and shared weights stay what they are, and a weight is called in the cut model as in
the model but for a prefix, ``layers.3.`` or ``head.``. Between two cuts a module runs as a whole,
by its own code; only modules that a cut goes through are taken apart, as `tracing` followed them.
They are not called any more: hooks of theirs would not run, and are refused.

Following a model takes seconds. What is found is a plan of names only, which cuts, in no time, each
model that is built like it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from sedona_nni.errors import InputError
from sedona_nni.models.cutting.cut_points import Boundaries, choose_places, find_places
from sedona_nni.models.cutting.piece import Piece, PiecePlan
from sedona_nni.models.cutting.steps import plan_pieces
from sedona_nni.models.cutting.tracing import trace
from sedona_nni.models.hooks import has_hooks

__all__ = ["CutModel", "CutPlan", "cut_model", "joined_state_dict", "plan_cut"]


@dataclass(frozen=True)
class CutPlan:
    """Where models of one structure are cut, and what each piece then does; made by `plan_cut`.

    It can be pickled and compared, and holds nothing of the model that it was made with.

    Attributes:
        layer_names: See `CutModel`, as the next two.
        shapes: Shape of each layer's output without the batch.
        shares: Each layer's share of the model's MACs.
        num_classes: How many logits there are for each image.
        pieces: What each layer does, then the head.
        apart: Modules that a cut goes through; the model itself is ``""``.
        structure: Class of each module, and shape of each weight and buffer, by their names.

    Examples:
        >>> import torch, torchvision
        >>> from sedona_nni.models.cutting.cut_model import plan_cut
        >>> with torch.device("meta"):
        ...     hollow = torchvision.models.resnet18()
        >>> plan = plan_cut(hollow, torch.zeros(1, 3, 64, 64), ["layer2.0"])
        >>> plan.layer_names, plan.apart
        (('layer2.0', 'layer4.1'), ('', 'layer2'))
        >>> cut = plan.cut(torchvision.models.resnet18())
        >>> cut(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 1000])
    """

    layer_names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    shares: tuple[float, ...]
    num_classes: int
    pieces: tuple[PiecePlan, ...]
    apart: tuple[str, ...]
    structure: dict[str, str]

    def cut(self, model: nn.Module) -> CutModel:
        """Cut a model; its modules and weights are used, not copied.

        Args:
            model: Built like the one planned with; on any device, of any type, in either mode.

        Raises:
            InputError: if it has other modules, weights or shapes than that, or hooks where it is
                taken apart.
        """
        structure = _structure(model)
        for name in {**self.structure, **structure}:
            planned, found = (each.get(name, "nothing") for each in (self.structure, structure))
            if found != planned:
                where = repr(name) if name else "its top"
                rule = f"must be built like the one of the plan, with {planned} at {where}"
                raise InputError.rule("model", rule, found)
        for path in self.apart:
            if has_hooks(model.get_submodule(path)):
                rule = "must have no hooks on modules that a cut goes through, they would not run"
                raise InputError.rule("model", rule, path or type(model).__name__)
        return CutModel(model, self)


class CutModel(nn.Module):
    """A model as ``layers``, an `nn.ModuleList`, followed by ``head``; made by `CutPlan.cut`.

    Attributes:
        layers: The L layers; each maps one tensor, (B, ...), to one.
        head: Maps the output of the last layer to logits, (B, classes).
        layer_names: The module with which each layer ends.
        shapes: Shape of each layer's output without the batch: of maps (C, H, W) or (H, W, C), of
            tokens (N, C).
        shares: Each layer's share of the model's MACs; the rest is the head's.

    Examples:
        >>> import torch, torchvision
        >>> from sedona_nni.models.cutting.cut_model import cut_model
        >>> model = torchvision.models.resnet18().eval()
        >>> images = torch.rand(2, 3, 64, 64)
        >>> cut = cut_model(model, images, 4)
        >>> cut.layer_names, cut.shapes[0]
        (['layer1.1', 'layer2.1', 'layer3.1', 'layer4.1'], (64, 16, 16))
        >>> cut.layers[3].layer4[1] is model.layer4[1], torch.equal(cut(images), model(images))
        (True, True)
    """

    def __init__(self, model: nn.Module, plan: CutPlan) -> None:
        super().__init__()
        layers = [Piece(model, piece) for piece in plan.pieces[:-1]]
        self.layers = nn.ModuleList(layers)
        self.head = Piece(model, plan.pieces[-1], layers)
        self.layer_names = list(plan.layer_names)
        self.shapes = list(plan.shapes)
        self.shares = list(plan.shares)
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Map images, (B, C, H, W), to logits, (B, classes)."""
        features = images
        for layer in self.layers:
            features = layer(features)
        logits: Tensor = self.head(features)
        return logits

    @property
    def own_names(self) -> dict[str, str]:
        """What the model calls each entry of this state dict."""
        pieces = {f"layers.{i}.": layer for i, layer in enumerate(self.layers)}
        return {
            prefix + name: name
            for prefix, piece in (*pieces.items(), ("head.", self.head))
            for name in piece.state_dict()
        }

    def plain_state_dict(self) -> dict[str, Tensor]:
        """Return the state dict of the model that was cut, which loads it strictly."""
        return joined_state_dict([*cast("Iterable[Piece]", self.layers), self.head])


def plan_cut(model: nn.Module, example: Tensor, boundaries: Boundaries = "units") -> CutPlan:
    """Find where and how a model is cut, without its weights' values; it is left as it was.

    Args:
        model: Maps one tensor, (B, ...), to logits, (B, classes).
        example: A batch of images as it takes them; only shape and type matter.
        boundaries: Where layers end, see `sedona_nni.models.cutting.cut_points.choose_places`.

    Raises:
        InputError: if the model does not take the example, returns no logits or cannot be
            followed, or if it cannot be cut there.
    """
    traced = trace(model, example)
    places = choose_places(find_places(traced), boundaries)
    pieces, apart = plan_pieces(traced, places)
    below = [0.0, *(place.share for place in places)]
    return CutPlan(
        layer_names=tuple(place.name for place in places),
        shapes=tuple(place.shape for place in places),
        shares=tuple(share - before for before, share in itertools.pairwise(below)),
        num_classes=traced.num_classes,
        pieces=tuple(pieces),
        apart=tuple(apart),
        structure=_structure(model),
    )


def cut_model(model: nn.Module, example: Tensor, boundaries: Boundaries = "units") -> CutModel:
    """Cut a model; its modules and weights are used, not copied.

    It is ``plan_cut(model, example, boundaries).cut(model)``, with arguments and errors of both.
    """
    return plan_cut(model, example, boundaries).cut(model)


def joined_state_dict(pieces: Iterable[Piece]) -> dict[str, Tensor]:
    """Return the state dict of the model whose pieces these are, the layers and the head."""
    return {name: each for piece in pieces for name, each in piece.own_state_dict().items()}


def _structure(model: nn.Module) -> dict[str, str]:
    """Return the class of each module, and the shape of each weight and buffer, by their names."""
    modules = {
        name: f"{type(module).__module__}.{type(module).__qualname__}"
        for name, module in model.named_modules(remove_duplicate=False)
    }
    tensors = itertools.chain(
        model.named_parameters(remove_duplicate=False),
        model.named_buffers(remove_duplicate=False),
    )
    return {**modules, **{name: str(tuple(tensor.shape)) for name, tensor in tensors}}
