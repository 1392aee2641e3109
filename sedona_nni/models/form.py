"""Which modules are built alike, so that what holds for one holds for all: costs, for instance."""

from __future__ import annotations

from collections.abc import Hashable

from torch import Tensor, nn

from sedona_nni.models.cutting.piece import Piece

__all__ = ["form_of"]

_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}


def form_of(module: nn.Module) -> Hashable:
    """Return what is equal for modules that compute the same kind of thing, with other weights.

    That is their class, their attributes, the shape of each weight, and the same of what is in
    them. What a layer of a cut model consists of may be called otherwise, as the third of some
    residual blocks is. What cannot be compared counts as another thing each time.

    Examples:
        >>> from sedona_nni import build_backbone
        >>> from sedona_nni.models.form import form_of
        >>> backbone = build_backbone("vgg16", num_classes=10)
        >>> first, second, third = (form_of(layer) for layer in backbone.layers[-3:])
        >>> first == second, second == third
        (True, False)
    """
    if isinstance(module, Piece):
        steps, own = module.without_names()
        return (Piece, module.training, *steps, *(_form_of_part(part) for part in own))
    weights = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return (
        type(module),
        *((name, tuple(each.shape), each.dtype, each.requires_grad) for name, each in weights),
        *(
            (name, _value(value))
            for name, value in vars(module).items()
            if name not in _OF_EVERY_MODULE
        ),
        *((name, form_of(part)) for name, part in module.named_children()),
    )


def _form_of_part(part: object) -> Hashable:
    """Return the form of what a step of a piece calls or takes."""
    if isinstance(part, nn.Module):
        return form_of(part)
    if isinstance(part, Tensor):
        return (tuple(part.shape), part.dtype, part.requires_grad)
    return _value(part)


def _value(value: object) -> Hashable:
    if isinstance(value, tuple | list):
        return (type(value), *map(_value, value))
    try:
        hash(value)
    except TypeError:
        return object()
    return (type(value), value)
