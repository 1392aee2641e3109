"""Weights from a file into a model, before it is cut.

A file is one of safetensors, or one that ``torch.save`` wrote, of which no code is run. What such a
one holds is a state dict, or a dictionary with it under one of `_UNDER`, the first that is there:
moving averages go before the weights that they follow. Names with the ``module.`` of
`nn.DataParallel` lose it.

The *classifier* of a model are those entries whose shape follows from the number of classes. Where
the file has them in another shape, or not at all, or where they are to be reset, the model keeps
its own; everything else has to be there, and has to fit.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from sedona_nni.errors import InputError
from sedona_nni.files import read_tensors, reading

__all__ = [
    "FileOfWeights",
    "Shapes",
    "classifier_entries",
    "copy_of",
    "fingerprint_of_weights",
    "freeze_pretrained",
    "is_pretrained",
    "load_pretrained",
    "shapes_of",
]

_UNDER = ("model_ema", "state_dict_ema", "model", "state_dict")
_PARALLEL = "module."
_COUNTED = "n_averaged"  # beside the weights of a moving average of torch's
_MARK = "pretrained"

Shapes = Mapping[str, tuple[int, ...]]
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class FileOfWeights:
    """What a file holds.

    Args:
        path: It ends with ``.safetensors``, ``.pt`` or ``.pth``.
        reset_classifier: Whether the model keeps its own classifier though the file's would fit.

    Attributes:
        path: That.
        reset_classifier: That.
        weights: By their names in the model that it is of.

    Raises:
        InputError: if the file is missing, damaged, could run code, or holds no state dict.
    """

    def __init__(self, path: Path, reset_classifier: bool = False) -> None:
        self.path = path
        self.reset_classifier = reset_classifier
        try:
            self.weights = _read(path)
        except InputError as error:
            raise InputError(f"weights: {error}") from error

    def refuse(self, what: str) -> InputError:
        """Return the error that says what is wrong with it."""
        return InputError(f"weights: {self.path}: {what}")


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        with reading(path):
            return _with_numbers(path, load_file(path))
    if path.suffix not in (".pt", ".pth"):
        raise InputError.rule("file", "must end with .safetensors, .pt or .pth", str(path))
    found = read_tensors(path)
    for name in _UNDER:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
            break
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: must hold a state dict, but holds {_in_words(found)}")
    found.pop(_COUNTED, None)
    strange = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if strange:
        held = _in_words(found[strange[0]])
        raise InputError(f"{path}: must hold a state dict, but {strange[0]!r} is {held}")
    if all(name.startswith(_PARALLEL) for name in found):
        consume_prefix_in_state_dict_if_present(found, _PARALLEL)
    return _with_numbers(path, found)


def _with_numbers(path: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, values in weights.items():
        # Of sparse, quantised and 8-bit ones torch cannot say
        plain = values.layout == torch.strided and not values.is_quantized
        plain = plain and values.element_size() > 1
        if values.is_meta or (plain and not values.isfinite().all()):
            raise InputError(f"{path}: {name} must have finite numbers")
    return weights


def _in_words(value: Any) -> str:
    if isinstance(value, dict) and not value:
        return "an empty one"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def fingerprint_of_weights(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: if it cannot be read.
    """
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        while part := file.read(2**22):
            digest.update(part)
    return digest.hexdigest()


def shapes_of(model: nn.Module) -> Shapes:
    """Return the shape of each entry of a model's state dict."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def classifier_entries(shapes: Shapes, of_more_classes: Shapes) -> frozenset[str]:
    """Return the entries of the classifier.

    Args:
        shapes: Of the model.
        of_more_classes: Of one that differs from it in the number of classes alone.
    """
    return frozenset(name for name, shape in shapes.items() if of_more_classes.get(name) != shape)


def load_pretrained(
    model: nn.Module,
    file: FileOfWeights,
    classifier: Callable[[], frozenset[str]],
    unused: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Give a model the weights of a file, and mark them, see `is_pretrained`.

    On the ``meta`` device nothing is loaded, but all is checked.

    Args:
        model: Weights that the file lacks stay as they are.
        file: The file.
        classifier: Returns the entries of the classifier; it is asked only if one could be at odds.
        unused: How entries of the file begin that are left aside.

    Returns:
        The entries of the classifier, if they stay as they are.

    Raises:
        InputError: if an entry is missing, too much, or of another shape, unless the classifier's.
    """
    own = shapes_of(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in file.weights.items()}
    odd = {name for name, shape in own.items() if shapes.get(name) != shape}
    mine = classifier() if odd or file.reset_classifier else frozenset()
    kept = [name for name in own if name in mine] if odd & mine or file.reset_classifier else []
    other = [name for name in own if name in odd - mine and name in shapes]

    fitting = file.weights.copy()  # of its own class, which may know the versions of modules
    for name in [*kept, *other, *(name for name in shapes if name.startswith(unused))]:
        fitting.pop(name, None)
    floating = {n for n, values in model.state_dict().items() if values.is_floating_point()}
    if unlike := [n for n in fitting if n in floating and not fitting[n].is_floating_point()]:
        kind = fitting[unlike[0]].dtype
        raise file.refuse(
            f"{unlike[0]} must have real numbers, as in {type(model).__name__}, but has {kind}"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "for .* copying from a non-meta parameter")
            result = model.load_state_dict(fitting, strict=False)  # may know earlier names
    except RuntimeError as error:
        raise file.refuse(str(error).splitlines()[-1].strip()) from None
    missing = [name for name in result.missing_keys if name not in {*kept, *other}]
    what = type(model).__name__
    if missing:
        raise file.refuse(f"must have {_listed(missing)}, as {what} does")
    if result.unexpected_keys:
        raise file.refuse(f"must not have {_listed(result.unexpected_keys)}, as {what} has not")
    if misshapen := _of_no_number_of_classes(kept, own, shapes):
        rule = f"{misshapen} must have the shape {own[misshapen]} but for the number of classes"
        raise file.refuse(f"{rule}, as in {what}, but has {shapes[misshapen]}")
    if other:
        rule = f"{other[0]} must have the shape {own[other[0]]}, as in {what}"
        raise file.refuse(f"{rule}, but has {shapes[other[0]]}")
    for name, parameter in model.named_parameters():
        if name not in kept:
            setattr(parameter, _MARK, True)
    return tuple(kept)


def _of_no_number_of_classes(names: Iterable[str], own: Shapes, shapes: Shapes) -> str | None:
    """Return an entry of a classifier whose shape in a file is not that of other classes: of these
    all entries have to differ, and in one ratio."""
    there = [name for name in names if name in shapes]
    differing = {
        name: [pair for pair in zip(own[name], shapes[name], strict=False) if len({*pair}) > 1]
        for name in there
    }
    ratio = next((pair for pairs in differing.values() for pair in pairs), None)
    for name in there:
        if len(own[name]) != len(shapes[name]):
            return name
        if ratio and any(a * ratio[1] != b * ratio[0] for a, b in differing[name]):
            return name
    if ratio and not all(differing.values()):
        return next(name for name in there if differing[name])
    return None


def _listed(names: Iterable[str]) -> str:
    first, *others = names
    return first + (f" and {len(others)} more" if others else "")


def is_pretrained(parameter: nn.Parameter) -> bool:
    """Return whether a weight came from a file; copies do not know, unless by `copy_of`."""
    return bool(getattr(parameter, _MARK, False))


def copy_of(module: ModuleT) -> ModuleT:
    """Return a deep copy of a module that knows which of its weights came from a file."""
    copied = copy.deepcopy(module)
    for own, other in zip(copied.parameters(), module.parameters(), strict=True):
        if is_pretrained(other):
            setattr(own, _MARK, True)
    return copied


def freeze_pretrained(module: nn.Module) -> None:
    """Let no gradients be computed for weights from a file."""
    for parameter in module.parameters():
        if is_pretrained(parameter):
            parameter.requires_grad_(False)
