"""The plain network in files that are read without this project.

    state-dict      its weights by its own names, as safetensors
    torch-export    the network in evaluation mode, by `torch.export`, a ``.pt2``
    onnx            likewise, by `torch.onnx`; needs the extra ``export``

The latter two map images (B, C, H, W) of any number B to logits (B, classes). Beside each is a JSON
file that says how images have to be, and what the outputs stand for, see `ExpectedImages`.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from sedona_nni.data.expected_images import ExpectedImages
from sedona_nni.errors import InputError
from sedona_nni.files import write_atomically
from sedona_nni.training.weights import save_weights

__all__ = ["SUFFIXES", "write_plain"]

SUFFIXES = {"state-dict": ".safetensors", "torch-export": ".pt2", "onnx": ".onnx"}
"""How the name of a file ends, by its form."""

Writer = Callable[[Path], object]


def write_plain(model: nn.Module, images: ExpectedImages, form: str, path: Path) -> None:
    """Write a plain network.

    Args:
        model: Maps images to logits; its mode is left as it was.
        images: What they are.
        form: One of `SUFFIXES`.
        path: Where to. What says how images have to be is beside it, its name ends with ``.json``.

    Raises:
        InputError: if torch cannot follow it for any number of images, or the file cannot be
            written.
        ModuleNotFoundError: if ``onnx`` or ``onnxscript`` is not installed.
    """
    if form == "state-dict":
        save_weights(model.state_dict(), path, {"format": "pt", **images.as_metadata()})
    else:
        follow = _exported if form == "torch-export" else _as_onnx
        training = {part: part.training for part in model.modules()}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what torch will change of its own
                write_atomically(path, follow(model.eval(), images))
        finally:
            for part, mode in training.items():
                part.training = mode
    images.save(path.with_name(f"{path.name}.json"))


def _exported(model: nn.Module, images: ExpectedImages) -> Writer:
    try:
        program = torch.export.export(
            model, (_example(images),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
    except Exception as error:
        raise _refused(error) from error

    def write(path: Path) -> None:
        with path.open("wb") as file:
            torch.export.save(program, file)

    return write


def _as_onnx(model: nn.Module, images: ExpectedImages) -> Writer:
    for needed in ("onnx", "onnxscript"):
        importlib.import_module(needed)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        program = torch.onnx.export(
            model,
            (_example(images),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    except Exception as error:
        raise _refused(error) from error
    assert program is not None
    return program.save


def _example(images: ExpectedImages) -> torch.Tensor:
    return torch.zeros(2, images.in_channels, *images.image_size)


def _refused(error: Exception) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(f"the network cannot be followed for any number of images ({reason})")
